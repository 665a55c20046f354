"""Many visitors, one after the other and at once, take nothing with them and leave nothing."""

import time
from contextlib import ExitStack

import pytest
from PIL import Image

from portraitgen.media.decode import read_video
from portraitgen.media.encode import write_video
from tests.browser.chromium import Chromium
from tests.browser.demo_server import DemoServer, serve
from tests.browser.visitor import Visitor
from tests.runs.tiny import save_tiny

pytest.importorskip("gradio", reason="needs the extra demo")
pytestmark = pytest.mark.slow

_SETTLED_S = 15.0
"""Within which what visitors took is given back."""


@pytest.fixture(scope="module")
def given(carphone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    save_tiny(folder / "last.safetensors")
    frames = read_video(carphone)
    Image.fromarray(frames[0]).save(folder / "ann.png")
    write_video(folder / "talk.mp4", frames[:12], fps=25)
    return folder


def ask(visitor: Visitor, given) -> None:
    """Give photo and clip and ask for a video."""
    visitor.give("Reference", given / "ann.png")
    visitor.until("the photo is looked at", lambda: "1 face found" in visitor.text)
    visitor.give("Driving", given / "talk.mp4")
    visitor.until("the clip is looked at", lambda: "12 frames of" in visitor.text)
    visitor.press("Generate")


def visit(chromium: Chromium, server: DemoServer, given) -> None:
    with Visitor(chromium, server.address, apart=True) as visitor:
        ask(visitor, given)
        visitor.until("a result", visitor.results)


def together(chromium: Chromium, server: DemoServer, given, count: int) -> None:
    with ExitStack() as stack:
        visitors = [stack.enter_context(Visitor(chromium, server.address, apart=True)) for _ in range(count)]
        for visitor in visitors:
            ask(visitor, given)
        for visitor in visitors:
            visitor.until("a result", visitor.results)


def settled(server: DemoServer) -> float:
    """Megabytes that the server alone has, when all visitors are gone."""
    least = float("inf")
    end = time.monotonic() + _SETTLED_S
    while time.monotonic() < end:
        least = min(least, server.process.memory_full_info().uss / 2**20)
        time.sleep(0.5)
    assert server.left_over() == []
    return least


def test_memory_after_many_visitors_is_that_before(chromium, given, tmp_path):
    words = (f"weights={given}/last.safetensors", "sampling.num_steps=2", "device=cpu")
    with serve(tmp_path, *words) as server:
        for _ in range(3):  # the first ones load what is loaded once
            visit(chromium, server, given)
        before = settled(server)
        for _ in range(20):
            visit(chromium, server, given)
        one_by_one = settled(server)
        together(chromium, server, given, 10)
        at_once = settled(server)
    assert one_by_one == pytest.approx(before, rel=0.05)
    assert at_once == pytest.approx(before, rel=0.05)
