"""A visitor of the page of `demo.py`: makes a video, cancels one, is told what is wrong, leaves nothing."""

import shlex
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from portraitgen.media.decode import read_video
from portraitgen.media.encode import write_video
from tests.browser.demo_server import DemoServer, serve
from tests.browser.page_probe import faults
from tests.browser.visitor import Visitor
from tests.command_line import run_command
from tests.runs.tiny import save_tiny

pytest.importorskip("gradio", reason="needs the extra demo")

PHOTO = "ann's photo (1).png"
"""A name that a shell, Hydra and Gradio each read in their own way."""


@pytest.fixture(scope="module")
def given(carphone, tmp_path_factory) -> Path:
    """A folder with weights, a photo, a clip of 12 frames and a longer one, and what shows no face."""
    folder = tmp_path_factory.mktemp("given")
    save_tiny(folder / "last.safetensors")
    frames = read_video(carphone)
    Image.fromarray(frames[0]).save(folder / PHOTO)
    write_video(folder / "talk.mp4", frames[:12], fps=25)
    shutil.copyfile(carphone, folder / "long.mp4")
    Image.fromarray(np.full((90, 160, 3), 180, np.uint8)).save(folder / "sky.png")
    write_video(folder / "hours.mp4", [np.zeros((16, 16, 3), np.uint8)] * 70, fps=1)
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def server(chromium, given, tmp_path_factory):
    words = (f"weights={given}/last.safetensors", "sampling.num_steps=6", "limits.seconds=60", "device=cpu")
    with serve(tmp_path_factory.mktemp("server"), *words) as served:
        yield served


def download(address: str) -> bytes:
    with urllib.request.urlopen(address) as answer:
        return answer.read()


def make(visitor: Visitor, given: Path) -> None:
    """Give the photo and the short clip."""
    visitor.give("Reference", given / PHOTO)
    visitor.until("the photo is looked at", lambda: "1 face found" in visitor.text)
    visitor.give("Driving", given / "talk.mp4")
    visitor.until("the clip is looked at", lambda: "12 frames of" in visitor.text)


def test_a_visitor_makes_a_video_and_the_command_makes_the_same(chromium, server, given, tmp_path):
    with Visitor(chromium, server.address) as visitor:
        make(visitor, given)
        visitor.press("Settings")
        visitor.write("Num steps", "4")
        visitor.press("Generate")
        visitor.until("progress", lambda: visitor.tab.run("!!document.querySelector('[aria-valuenow]')"))
        visitor.until("the newest frame", lambda: visitor.tab.run("!!document.querySelector('.pg-live img')"))
        (result,) = visitor.until("a result", visitor.results)
        assert faults(visitor.tab) == {}, "it plays"
        assert [each for each in visitor.tab.requests if not each.startswith(server.address)] == []
        made = download(result["main"])
        links = visitor.tab.run("[...document.querySelectorAll('.pg-link')].map(each => each.href)")
        settings = yaml.safe_load(download(next(each for each in links if each.endswith(".yaml"))))
    assert settings["command"] == result["command"]
    chosen = {"sampling.num_steps": 4}  # not the 6 that the page was started with
    assert settings["given"] == {"reference": PHOTO, "driving": "talk.mp4", **chosen}
    assert settings["sampling"] == {"num_steps": 4}
    assert "sampling.num_steps=6" not in result["command"]
    python, script, *words = shlex.split(result["command"])
    assert (python, script) == ("python", "generate.py")
    for name in (PHOTO, "talk.mp4"):
        shutil.copyfile(given / name, tmp_path / name)
    assert run_command(script, *words, folder=tmp_path) == 0
    (written,) = (path for path in tmp_path.glob("*.mp4") if path.name != "talk.mp4")
    assert written.read_bytes() == made


def test_a_job_that_is_cancelled_makes_room_for_another(chromium, server, given):
    with Visitor(chromium, server.address) as visitor, Visitor(chromium, server.address) as other:
        visitor.give("Reference", given / PHOTO)
        visitor.give("Driving", given / "long.mp4")
        visitor.until("it is looked at", lambda: "120 frames of" in visitor.text)
        visitor.press("Generate")
        visitor.until("it denoises", lambda: "denoising" in visitor.text)
        make(other, given)
        other.press("Generate")
        other.until("its place", lambda: "Place 1 in the queue: 1 job comes first" in other.text)
        visitor.press("Cancel")
        visitor.until("it is cancelled", lambda: "Cancelled." in visitor.text)
        assert other.until("the other's result", other.results)
        assert visitor.results() == []
        visitor.clear("Driving")
        visitor.until("the field is empty", lambda: "120 frames" not in visitor.text)
        visitor.give("Driving", given / "talk.mp4")
        visitor.until("the clip is looked at", lambda: "12 frames of" in visitor.text)
        visitor.press("Generate")
        assert visitor.until("a result", visitor.results)


def test_what_is_wrong_is_said_beside_what_caused_it(chromium, server, given):
    with Visitor(chromium, server.address) as visitor:
        visitor.press("Generate")
        visitor.until("what is missing", visitor.problems)
        assert "not given" in visitor.problems()[0]
        visitor.give("Reference", given / "sky.png")
        visitor.until("no face", lambda: "no face found in sky.png. Looked for: a whole face" in visitor.text)
        visitor.give("Driving", given / "hours.mp4")
        visitor.until("too long", lambda: "hours.mp4: more than the 60 seconds" in visitor.text)
        beside = "document.querySelector('.pg-problem').closest('.pg-field').innerText"
        assert "Reference" in visitor.tab.run(beside)
        for field, file in (("Reference", "bad.png"), ("Driving", "talk.mp4")):
            visitor.clear(field)
            visitor.give(field, given / file)
        visitor.until("no picture", lambda: "bad.png: not a readable picture" in visitor.text)
        visitor.press("Settings")
        visitor.write("Size", "7")
        visitor.press("Generate")
        visitor.until("the size is refused", lambda: "it must be between 8 and" in visitor.text)
        assert str(server.files) not in visitor.text, "no folder of the machine is named"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, True)], ids=["desk", "phone at night"])
def test_the_page_is_for_everybody(chromium, axe, server, given, width, dark):
    with Visitor(chromium, server.address, width=width, dark=dark) as visitor:
        visitor.press("Settings")
        assert axe(visitor.tab) == []
        visitor.give("Reference", given / "sky.png")
        visitor.until("no face", visitor.problems)
        assert axe(visitor.tab) == []
        visitor.clear("Reference")
        make(visitor, given)
        visitor.press("Generate")
        visitor.until("a result", visitor.results)
        assert axe(visitor.tab) == []
        assert faults(visitor.tab) == {}


def test_the_keyboard_reaches_everything(chromium, server):
    with Visitor(chromium, server.address) as visitor:
        reached = set()
        for _ in range(40):
            for kind in ("keyDown", "keyUp"):
                visitor.tab.ask(
                    "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9
                )
            reached.add(
                visitor.tab.run(
                    "(document.activeElement.ariaLabel || document.activeElement.innerText).trim()"
                )
            )
        assert {"Generate", "Try an example: carphone"} <= reached
        assert any(each.startswith("Reference") for each in reached)
        assert any(each.startswith("Driving") for each in reached)
        assert any(each.startswith("Settings") for each in reached)


def test_nothing_is_left_and_no_other_file_is_reached(chromium, server: DemoServer, given):
    with Visitor(chromium, server.address) as visitor:
        visitor.give("Reference", given / PHOTO)
        visitor.until("the photo is looked at", lambda: "1 face found" in visitor.text)
        assert len(server.left_over()) > 0
        weights, uploads = given / "last.safetensors", next(server.files.glob("*/uploads"))
        for path in (weights, "/etc/passwd", f"{uploads}/../../../../etc/passwd", "https://example.org/"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                download(f"{server.address}gradio_api/file={path}")
            assert refused.value.code in (403, 404)
    end = time.monotonic() + 30
    while server.left_over() and time.monotonic() < end:
        time.sleep(0.2)
    assert server.left_over() == []


def test_others_than_this_machine_give_a_password(chromium, given, tmp_path):
    words = (f"weights={given}/last.safetensors", "host=0.0.0.0", "password=open sesame")
    with serve(tmp_path, *words) as served:
        address = served.address.replace("0.0.0.0", "127.0.0.1")
        for path in ("config", "gradio_api/queue/data?session_hash=a", f"gradio_api/file={served.files}/x"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                download(f"{address}{path}")
            assert refused.value.code == 401, path
        assert "open sesame" not in (tmp_path / "log").read_text()
        with chromium.open(address) as tab:
            form = "new URLSearchParams({username: 'ann', password: PASSWORD})"
            ask = f"fetch('/login', {{method: 'POST', body: {form}}}).then(answer => answer.status)"
            assert tab.run(ask.replace("PASSWORD", "'guess'")) == 400
            assert tab.run(ask.replace("PASSWORD", "'open sesame'")) == 200
        with Visitor(chromium, address) as visitor:
            visitor.until("the page is laid out", lambda: "Generate" in visitor.text)
