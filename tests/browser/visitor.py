"""What a visitor does on the page of `demo.py`: gives files, presses buttons, waits, looks."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.browser.chromium import Chromium, Tab

PATIENCE = 120.0


class Visitor:
    """One open page; a context manager that leaves it.

    Args:
        apart: with a browser of their own, as many visitors at once have.
    """

    def __init__(
        self,
        browser: Chromium,
        address: str,
        *,
        width: int = 1280,
        dark: bool = False,
        apart: bool = False,
    ) -> None:
        self.tab: Tab = browser.open(address, width=width, dark=dark, apart=apart)
        self.until("the page is there", lambda: self.tab.run("!!document.querySelector('.pg-title')"))

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.tab.__exit__()

    def until(self, what: str, holds: Callable[[], Any]) -> Any:
        """Wait until something holds; what it gives."""
        end = time.monotonic() + PATIENCE
        while not (found := holds()):
            if time.monotonic() > end:
                raise AssertionError(f"not in time: {what}; the page says {self.text[-1500:]!r}")
            time.sleep(0.1)
        return found

    @property
    def text(self) -> str:
        """All that the page says."""
        return str(self.tab.run("document.body.innerText"))

    def give(self, label: str, *files: Path) -> None:
        """Put files into the field for files that is called `label`."""
        named = f"each.offsetParent && each.innerText.includes({json.dumps(label)})"
        inputs = "[...document.querySelectorAll('.pg-field input[type=file]')]"
        found = f"{inputs}.find(({{parentElement}}) => (each => {named})(parentElement.closest('.block')))"
        self.until(f"the field {label} is there", lambda: self.tab.run(f"!!({found})"))
        handle = self.tab.ask("Runtime.evaluate", expression=found)["result"]["objectId"]
        self.tab.ask("DOM.setFileInputFiles", objectId=handle, files=[str(file) for file in files])

    def press(self, label: str) -> None:
        """Press the button called `label` that can be pressed."""
        called = f"each.innerText.trim().split(/\\n/)[0] === {json.dumps(label)}"
        # Gradio lays out its tabs twice, once to measure them.
        named = f"{called} && !each.disabled && each.offsetParent && !each.closest('[aria-hidden=true]')"
        found = f"[...document.querySelectorAll('button')].find(each => {named})"
        self.until(f"{label} can be pressed", lambda: self.tab.run(f"!!{found}"))
        self.tab.run(f"{found}.click()")

    def clear(self, label: str) -> None:
        """Take the file out of the field that is called `label`."""
        named = f"each.innerText.includes({json.dumps(label)})"
        field = f"[...document.querySelectorAll('.pg-field')].find(each => {named})"
        self.tab.run(f"{field}.querySelector('button[aria-label=Clear]').click()")

    def write(self, label: str, text: str) -> None:
        """Write into the field whose label begins with `label`, until the page keeps it."""
        written = f"""(async () => {{
          const label = [...document.querySelectorAll('label')].find(
            each => each.offsetParent && each.innerText.trim().startsWith({json.dumps(label)}));
          if (!label) return null;
          const field = (label.querySelector('input, textarea') ? label : label.closest('.block'))
            .querySelector('input, textarea');  // that of a slider lies beside its label
          field.value = {json.dumps(text)};
          field.dispatchEvent(new Event('input', {{bubbles: true}}));
          await new Promise(done => setTimeout(done, 500));
          return field.isConnected ? field.value : null;
        }})()"""
        self.until(f"{label} is {text}", lambda: self.tab.run(written) == text)

    def draw(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw a box with the mouse where boxes are drawn; corners in shares of width and height."""
        place = "[...document.querySelectorAll('.pg-boxes')].find(each => each.offsetParent)"
        self.tab.run(f"{place}.scrollIntoView({{block: 'center'}})")
        left, top, width, height = self.tab.run(
            f"(({{left, top, width, height}}) => [left, top, width, height])({place}.getBoundingClientRect())"
        )
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            at = {"x": left + x * width, "y": top + y * height}
            self.tab.ask("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **at)

    def problems(self) -> list[str]:
        """Messages that stand beside inputs."""
        found: list[str] = self.tab.run(
            "[...document.querySelectorAll('.pg-problem')].map(each => each.innerText)"
        )
        return found

    def results(self) -> list[dict[str, str]]:
        """Each result, the newest first: address of its video, its command."""
        found: list[dict[str, str]] = self.tab.run(
            """[...document.querySelectorAll('.pg-result')].map(each => ({
              main: each.querySelector('.pg-link').href, command: each.querySelector('pre').textContent}))"""
        )
        return found
