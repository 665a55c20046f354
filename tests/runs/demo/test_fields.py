"""Every system has its page by what it declares, with no line of its own."""

from typing import get_args

import pytest

from portraitgen.runs.config.systems import all_systems, system_file
from portraitgen.runs.demo.given_files import Uploaded
from portraitgen.runs.demo.offer import OF_THE_HOUSE
from portraitgen.training.inputs import Input, Kind

gr = pytest.importorskip("gradio", reason="needs the extra demo")


def made_field(declared):
    from portraitgen.runs.demo.fields import make_field  # imports Gradio

    with gr.Blocks():
        return make_field(declared, needed=False)


def field(*given, **more):
    return made_field(Input(*given, **more))


@pytest.mark.parametrize("system", all_systems())
def test_what_a_system_declares_can_be_given(system):
    for each in system_file(system, "inputs").Inputs.inputs:
        if each.kind in OF_THE_HOUSE:
            continue
        made = made_field(each)
        assert made.parts
        empty = [getattr(part, "value", None) for part in made.parts]
        assert made.read(*([] if value is None else value for value in empty)) is None, "nothing is given yet"
        assert all(part.label for part in made.parts), "for those who listen"


def test_every_kind_has_a_field():
    from portraitgen.runs.demo.fields import _MAKERS

    assert _MAKERS.keys() | {*OF_THE_HOUSE} == {*get_args(Kind)}


def test_people_and_photos():
    ann, bob = (Uploaded(f"/{name}", name) for name in "ab")
    assert field("reference", "photos", "").read([ann]) == ann
    several = field("reference", "photos", "", people=None, photos=None)
    assert len(several.parts) == 4
    assert several.read([ann, bob], [], [bob], []) == [[ann, bob], [bob]]
    assert several.read([], [], [], []) is None
    assert field("reference", "photos", "", people=2).read([ann], [bob]) == [ann, bob]


def test_what_is_typed():
    size = field("size", "size", "pixels")
    assert [size.read(text) for text in ("512", "512, 384", "512×384", "")] == [
        512,
        [512, 384],
        [512, 384],
        None,
    ]
    number = field("inputs.scale", "number", "how strongly", low=0.0)
    assert [number.read(text) for text in ("1", "0.5", " ", None)] == [1, 0.5, None, None]
    count = field("length", "count", "frames", low=1)
    assert count.read("12") == 12
    layout = field("layout", "layout", "where", people=None)
    assert layout.read("0, 0, 0.5, 1\n\n0.5 0 1 1") == [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    shares = field("inputs.mix", "shares", "share", low=0.0, high=1.0)
    assert [shares.read(text) for text in ("0.3", "0.2, 0.1\n0.5", " ")] == [0.3, [[0.2, 0.1], [0.5]], None]
    switch = field("inputs.raw", "switch", "")
    assert [switch.read(value) for value in ("true", "false", "")] == [True, False, None]
    face = field("inputs.face", "face", "", default="largest", of="reference")
    assert [face.read(value) for value in ("largest", "2")] == [None, "2"]
    assert field("prompt", "text", "").read(" two\nfriends ") == "two friends"
    for made, text, said in (
        (size, "big", "size: give one number"),
        (number, "much", "inputs.scale: give a number"),
        (count, "1.5", "length: give a whole number"),
        (layout, "left", "layout: give four numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            made.read(text)


def test_the_range_is_part_of_the_meaning():
    from portraitgen.runs.demo.fields import meaning_of

    assert meaning_of(Input("inputs.a", "number", "share", low=0, high=1)) == "share (0 to 1)"
    assert meaning_of(Input("inputs.a", "number", "share", low=0.5)) == "share (from 0.5)"
    assert meaning_of(Input("inputs.a", "number", "share", high=2)) == "share (up to 2)"
