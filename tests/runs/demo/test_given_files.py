"""Files keep the visitor's names, leave no folder, and messages name them and nothing of this machine."""

from pathlib import Path

import pytest

from portraitgen.runs.demo.blame import blamed, longest
from portraitgen.runs.demo.given_files import GivenFiles, Uploaded
from portraitgen.training.inputs import Input


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("my face (2).jpg", "my face (2).jpg"),
        ("Зоя.png", "Зоя.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\ann.jpg", "ann.jpg"),
        ("..", "file"),
        (".hidden.jpg", "hidden.jpg"),
        ("a\x00b\n.jpg", "ab.jpg"),
        ("x" * 300 + ".jpg", "x" * 100 + ".jpg"),
        ("顔" * 90 + ".jpg", "顔" * 33 + ".jpg"),  # 255 bytes are the most that a file system takes
    ],
)
def test_the_name_of_a_file(said, kept):
    assert Uploaded(Path("/store/1"), said).file_name == kept


def test_files_lie_under_their_names_and_are_named_by_them(tmp_path):
    stored = [tmp_path / f"store{number}" for number in range(3)]
    for number, path in enumerate(stored):
        path.write_text(str(number))
    ann, other, talk = (
        Uploaded(path, name) for path, name in zip(stored, ("a.jpg", "a.jpg", "t.mp4"), strict=True)
    )
    files = GivenFiles(tmp_path / "job")
    values = files.place({"reference": [[ann], [other]], "driving": talk, "inputs.margin": 0.5})
    (first,), (second,) = values["reference"]
    assert [Path(each).read_text() for each in (first, second, values["driving"])] == ["0", "1", "2"]
    assert Path(second).stem == "a", "the key of a request is made of it"
    assert files.named(values) == {
        "reference": [["a.jpg"], ["2/a.jpg"]],
        "driving": "t.mp4",
        "inputs.margin": 0.5,
    }
    message = f"{values['driving']}: no face; see {tmp_path}/job/x.npz"
    assert files.readable(message) == "t.mp4: no face; see x.npz"


def test_a_message_is_said_beside_the_input_that_it_is_about(tmp_path):
    files = GivenFiles(tmp_path)
    (tmp_path / "store").touch()
    values = files.place(
        {"reference": Uploaded(tmp_path / "store", "a.jpg"), "audio": Uploaded(tmp_path / "store", "t.wav")}
    )
    names = ["reference", "audio", "size", "prompt"]
    assert blamed("prompt: not given; describe it", names, files) == ("prompt", "not given; describe it")
    assert blamed("size=[7, 7]: both sides must be even", names, files) == ("size", "both sides must be even")
    assert blamed(f"{values['reference']}: no face", names, files) == ("reference", "a.jpg: no face")
    assert blamed(f"audio={values['audio']}: silent", names, files) == ("audio", "silent")
    assert blamed("20 people are waiting", names, files) == (None, "20 people are waiting")
    assert blamed("weights: bad", names, files) == (None, "weights: bad")


def test_what_takes_most_memory():
    inputs = (Input("reference", "photos", ""), Input("driving", "video", ""), Input("size", "size", ""))
    assert longest(inputs, {"reference": "", "driving": "", "size": 8}) == "driving"
    assert longest(inputs, {"reference": "", "size": 8}) == "size"
    assert longest(inputs, {}) is None
