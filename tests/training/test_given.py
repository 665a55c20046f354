"""What a person gives is refused by name where a system does not take it, and converted where it does."""

from fractions import Fraction
from pathlib import Path

import pytest

from portraitgen.training.given import accept, convert
from portraitgen.training.inputs import Input, SystemInputs, Way
from portraitgen.training.request import request_key


class Talker(SystemInputs):
    inputs = (
        Input("reference", "photos", "photos", people=2, photos=None),
        Input("audio", "sound", "what is said"),
        Input("prompt", "text", "what is seen"),
        Input("fps", "rate", "frames a second"),
        Input("length", "count", "frames", low=1, high=100),
        Input("size", "size", "pixels"),
        Input("layout", "layout", "where", people=2),
        Input("inputs.voice", "weights", "weights of the voice", origin="make it with train.py"),
        Input("inputs.mood", "choice", "mood", default="calm", choices=("calm", "glad")),
        Input("inputs.blink", "switch", "whether eyes blink", default=True),
        Input("inputs.face", "face", "which face", default="largest", of="reference"),
        Input("inputs.scale", "number", "strength", default=1.0, low=0.0),
        Input("inputs.mix", "shares", "of the photos", low=0.0, high=1.0),
    )
    ways = (
        Way("a photo that speaks", ("reference", "audio", "inputs.voice"), ("fps", "inputs.mood")),
        Way("a photo in words", ("reference", "prompt"), ("length", "size", "layout", "inputs.scale")),
    )

    def requests(self, given):
        raise NotImplementedError


@pytest.fixture
def files(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg", "talk.wav", "voice.safetensors", "mask.png"):
        (tmp_path / name).touch()
    return tmp_path


def given(files, **values):
    named = {key.replace("inputs_", "inputs."): value for key, value in values.items()}
    return accept(Talker, named, name="talker", seed=4)


def test_values_and_defaults(files):
    found = given(files, reference=f"{files}/a.jpg", prompt="sea", fps=None)
    assert found.way.meaning == "a photo in words"
    assert found["reference"] == ((files / "a.jpg",),)
    assert (found["prompt"], found["fps"], found["inputs.scale"], found.seed) == ("sea", None, 1.0, 4)
    found = given(
        files,
        reference=f"{files}/a.jpg",
        audio=f"{files}/talk.wav",
        inputs_voice=f"{files}/voice.safetensors",
    )
    assert (found.way.meaning, found["inputs.mood"]) == ("a photo that speaks", "calm")
    assert found["audio"] == files / "talk.wav"


def test_photos_of_people(files):
    one, two, three = (f"{files}/{name}.jpg" for name in "abc")

    def people(value):
        return [[path.name for path in person] for person in convert(Talker.inputs[0], value)]

    assert people(one) == [["a.jpg"]]
    assert people([one, two]) == [["a.jpg"], ["b.jpg"]], "a list is one photo of each of several people"
    assert people([[one, two], three]) == [["a.jpg", "b.jpg"], ["c.jpg"]]
    assert people([[one, two, three]]) == [["a.jpg", "b.jpg", "c.jpg"]]
    for wrong, message in (([one, two, three], "at most 2 people"), ([], "at least one"), ([[]], "at least")):
        with pytest.raises(ValueError, match=message):
            people(wrong)
    with pytest.raises(ValueError, match=r"reference=.*d\.jpg: no such file"):
        people([one, f"{files}/d.jpg"])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("fps", 29.97, Fraction(2997, 100)),
        ("length", 12, 12),
        ("size", 64, (64, 64)),
        ("size", [64, 96], (64, 96)),
        ("prompt", 1984, "1984"),
        ("inputs.blink", False, False),
        ("inputs.mix", 0.25, 0.25),
        ("inputs.mix", 1, 1.0),
        ("inputs.mix", [0.25, 0.5], ((0.25, 0.5),)),
        ("inputs.mix", [[0.25], [], [0.1, 0.9]], ((0.25,), (), (0.1, 0.9))),
        ("inputs.face", "left", "left"),
        ("inputs.face", 2, "2"),
        ("layout", [[0, 0, 0.5, 1], [0.5, 0, 1, 1.0]], ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))),
    ],
)
def test_what_a_value_becomes(name, value, expected):
    (declared,) = (each for each in Talker.inputs if each.name == name)
    assert convert(declared, value) == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fps", 0, "give frames a second"),
        ("fps", float("nan"), "give a number"),
        ("length", 0, "at least 1"),
        ("length", 101, "at most 100"),
        ("length", 1.5, "whole number"),
        ("length", True, "give a number"),
        ("size", "big", r"give one number or \[height,width\]"),
        ("size", [1, 2, 3], "give one number"),
        ("size", 0, "give one number"),
        ("inputs.mood", "sad", "choose one of calm, glad"),
        ("inputs.blink", "yes", "true or false"),
        ("inputs.scale", -0.5, "at least 0"),
        ("inputs.mix", 1.5, "at most 1"),
        ("inputs.mix", [[0.2], [-0.1]], "at least 0"),
        ("inputs.mix", [[0.6, 0.6]], "more than 1 together"),
        ("inputs.mix", [0.2, [0.3]], "give a number"),
        ("inputs.mix", "half", "give a number"),
        *(
            ("inputs.face", each, "largest, left, right, or a number")
            for each in ("middle", "0", "-1", 1.5, "")
        ),
        ("inputs.voice", "none.safetensors", "no such file: make it with train.py"),
        ("prompt", ["a"], "give text"),
        ("layout", [[0, 0, 2, 1]], "in shares of width and height"),
        ("layout", [[0.5, 0, 0.5, 1]], "x0 < x1"),
        ("layout", ["none.png"], "no such file"),
        ("layout", ["https://host/mask.png"], "an address; fetch it"),
        ("layout", [[0, 0, 1, 1]] * 3, "3 places given, at most 2"),
    ],
)
def test_a_value_that_cannot_be_is_named(name, value, message):
    (declared,) = (each for each in Talker.inputs if each.name == name)
    with pytest.raises(ValueError, match=rf"^{name}\W.*{message}"):
        convert(declared, value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {},
            "give one of:\n  reference=… audio=… inputs.voice=…  .a photo that speaks.\n  ref",
        ),
        ({"driving": "x"}, "^driving: talker does not take it; it takes reference, audio"),
        ({"inputs.mod": "x"}, r"inputs\.mod: talker does not take it; did you mean 'inputs\.mood'"),
        ({"reference": "a", "prompt": "b", "fps": 3}, "^fps: not with reference=… prompt=….*leave it out"),
        ({"reference": "a", "prompt": "b", "fps": 3}, "fps goes with reference=… audio=… inputs.voice=…"),
        ({"reference": "a", "audio": "b"}, "inputs.voice=… is missing .weights of the voice.: make it with"),
        ({"reference": "a"}, "^prompt: not given. Give one of:"),
    ],
)
def test_what_does_not_go_together_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        accept(Talker, values, name="talker")


def test_messages_say_where():
    with pytest.raises(ValueError, match=r"^many\.csv, row 3: driving: talker"):
        accept(Talker, {"driving": "x"}, name="talker", place="many.csv, row 3: ")


def test_a_system_declares_with_care():
    with pytest.raises(AssertionError, match=r"called inputs\.mood"):
        Input("mood", "text", "a key of its own without its prefix")
    with pytest.raises(AssertionError, match="choices are for a choice"):
        Input("prompt", "text", "words", choices=("a",))


def test_keys_are_made_of_photos_and_words():
    people = ((Path("x/Ann B.jpg"), Path("y.jpg")), (Path("bob.png"),))
    assert request_key(people, "two friends, at sea!", None) == "Ann-B-bob-two-friends-at-sea"
    assert request_key((), "../..") == "sample"
