"""Pages of several weights: photos of several people, places drawn as boxes, sound of any origin."""

import shlex
import shutil
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from portraitgen.media.decode import probe_video, read_video
from tests.browser.demo_server import serve
from tests.browser.page_probe import faults
from tests.browser.visitor import Visitor
from tests.command_line import run_command
from tests.runs.tiny import save_tiny

pytest.importorskip("gradio", reason="needs the extra demo")


@pytest.fixture(scope="module")
def given(carphone, tmp_path_factory) -> Path:
    """Weights of a system that lets a photo speak and of one that draws several people, and photos."""
    folder = tmp_path_factory.mktemp("given")
    save_tiny(folder / "talk.safetensors", experiment="loopy/tiny_stage2")
    save_tiny(folder / "people.safetensors", experiment="uniportrait/tiny_stage2")
    frames = read_video(carphone)
    for name, number in {"ann": 0, "bob": 60}.items():
        Image.fromarray(frames[number]).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def server(chromium, given, tmp_path_factory):
    weights = f"weights=[{given}/talk.safetensors,{given}/people.safetensors]"
    with serve(tmp_path_factory.mktemp("server"), weights, "sampling.num_steps=2", "device=cpu") as served:
        yield served


def open_tab(visitor: Visitor, name: str) -> None:
    """Choose the weights of which the tab's title ends in `name`."""
    titles = visitor.tab.run("[...document.querySelectorAll('[role=tab]')].map(each => each.innerText)")
    (title,) = (title for title in titles if title.endswith(name))
    visitor.press(title)


def test_several_people_in_places_that_are_drawn(chromium, axe, server, given, tmp_path):
    with Visitor(chromium, server.address, width=400, dark=True) as visitor:
        open_tab(visitor, "people")
        visitor.give("person 1", given / "ann.png")
        visitor.give("person 2", given / "bob.png")
        visitor.until("both are looked at", lambda: visitor.text.count("1 face found") == 2)
        visitor.draw((0.1, 0.2), (0.45, 0.9))
        visitor.draw((0.55, 0.2), (0.9, 0.9))
        assert visitor.tab.run("document.querySelectorAll('.pg-boxes i').length") == 2
        visitor.press("Settings")
        visitor.write("Size", "64")
        visitor.press("Generate")
        (result,) = visitor.until("a picture", visitor.results)
        assert axe(visitor.tab) == []
        assert faults(visitor.tab) == {}
        with urllib.request.urlopen(result["main"]) as answer:
            made = answer.read()
    words = shlex.split(result["command"])[2:]
    assert "reference=[[ann.png],[bob.png]]" in words
    assert "layout=[[0.1,0.2,0.45,0.9],[0.55,0.2,0.9,0.9]]" in words
    for name in ("ann.png", "bob.png"):
        shutil.copyfile(given / name, tmp_path / name)
    assert run_command("generate.py", *words, folder=tmp_path) == 0
    assert (tmp_path / "ann-bob.png").read_bytes() == made


def test_a_photo_speaks_an_example_that_pip_brings(chromium, axe, server, given, tmp_path):
    with Visitor(chromium, server.address) as visitor:
        open_tab(visitor, "talk")
        visitor.give("Reference", given / "ann.png")
        visitor.press("Try an example: audio")
        visitor.until("the sound is listened to", lambda: "of it speech" in visitor.text)
        visitor.until("the photo is looked at", lambda: "1 face found" in visitor.text)
        assert "Size" not in visitor.text, "it stands in the settings, which are folded"
        visitor.press("Generate")
        visitor.until("what is wrong unfolds them", lambda: "give size=512" in visitor.text)
        assert "Size" in visitor.text
        visitor.write("Size", "64")
        visitor.write("Audio scale", "2")
        visitor.press("Generate")
        (result,) = visitor.until("a video", visitor.results)
        assert "+sampling.audio_scale=2" in shlex.split(result["command"])
        assert axe(visitor.tab) == []
        assert faults(visitor.tab) == {}
        with urllib.request.urlopen(result["main"]) as answer:
            (tmp_path / "made.mp4").write_bytes(answer.read())
    assert probe_video(tmp_path / "made.mp4").has_audio


def test_the_microphone(chromium, server, given):
    """That of a Chromium without one beeps, in which nobody speaks."""
    with Visitor(chromium, server.address) as visitor:
        open_tab(visitor, "talk")
        microphones = "[...document.querySelectorAll('[aria-label=\"Record audio\"]')]"
        record = f"{microphones}.find(each => each.offsetParent)"
        visitor.until("there is a microphone", lambda: visitor.tab.run(f"!!{record}"))
        visitor.tab.run(f"{record}.click()")
        visitor.press("Record")
        visitor.until("it records", lambda: "0:01" in visitor.text)
        visitor.press("Stop")
        visitor.until("it is listened to", visitor.problems)
        assert "no speech is heard in these" in visitor.problems()[0]
        assert "give a sound in which somebody speaks" in visitor.problems()[0]
        assert visitor.tab.complaints == []
        assert [each for each in visitor.tab.requests if not each.startswith(server.address)] == []
