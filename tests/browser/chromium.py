"""Chromium without a window, driven by its DevTools protocol through a pipe: no driver, no package."""

import base64
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

ALWAYS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # which containers do not allow
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",  # a microphone that beeps
    "--use-fake-ui-for-media-stream",  # and that may be listened to
    # No name is looked up: what would leave this machine fails, and is seen as a request.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)
PATIENCE = 60.0
"""Seconds to wait for an answer."""


class PageError(AssertionError):
    """A script of a test has failed in the page, or the browser refused a command."""


class Chromium:
    """The browser; a context manager that ends it.

    Args:
        program: chromium's path.
        profile: an empty folder of its own.
    """

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, commands = os.pipe()
        self._from, from_browser = os.pipe()
        words = [program, *ALWAYS, f"--user-data-dir={profile}", "about:blank"]
        # The protocol wants descriptors 3 and 4, which a shell can give to its program.
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "chromium", *words],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._to = os.fdopen(commands, "wb")
        self._left = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.ask("Browser.close")
            self._process.wait(timeout=10)
        except (PageError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._from)

    def ask(self, method: str, session: str | None = None, **given: Any) -> dict[str, Any]:
        """The result of a command; events that come before it are kept in `events`.

        Raises:
            PageError: the browser refuses it, ends, or does not answer in time.
        """
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": given}
        if session is not None:
            message["sessionId"] = session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        until = time.monotonic() + PATIENCE
        while (answer := self._next(until, method)).get("id") != number:
            self.events.append(answer)
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def wait_for(self, event: str, session: str) -> None:
        """Wait until an event has come for a session."""
        until = time.monotonic() + PATIENCE
        while not any(each.get("method") == event and each["sessionId"] == session for each in self.events):
            self.events.append(self._next(until, event))

    def _next(self, until: float, wanted: str) -> dict[str, Any]:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._from], [], [], max(until - time.monotonic(), 0))
            read = os.read(self._from, 1 << 20) if ready else b""
            if not read:
                raise PageError(f"chromium {'has ended' if ready else 'does not answer'}: {wanted}")
            self._left += read
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def open(
        self, address: str, *, width: int = 1280, height: int = 900, dark: bool = False, apart: bool = False
    ) -> "Tab":
        """A tab with a page that has loaded.

        Args:
            address: file:… or http://localhost:….
            width, height: of its window, in CSS pixels.
            dark: the user likes dark pages.
            apart: as in a browser of its own: it shares no cookies, and not the six connections to a host
                that all other tabs share.
        """
        context = self.ask("Target.createBrowserContext") if apart else {}
        target = self.ask("Target.createTarget", url="about:blank", **context)["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, target, session, context.get("browserContextId"))
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.ask(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        tab.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.ask("Emulation.setEmulatedMedia", features=[scheme])
        tab.ask("Page.navigate", url=address)
        self.wait_for("Page.loadEventFired", session)
        return tab


class Tab:
    """One page; a context manager that closes it."""

    def __init__(self, browser: Chromium, target: str, session: str, context: str | None) -> None:
        self._browser, self._target, self._session = browser, target, session
        self._context = context

    def __enter__(self) -> "Tab":
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.ask("Target.closeTarget", targetId=self._target)
        if self._context is not None:
            self._browser.ask("Target.disposeBrowserContext", browserContextId=self._context)

    def ask(self, method: str, **given: Any) -> dict[str, Any]:
        """A command of the protocol for this page."""
        return self._browser.ask(method, self._session, **given)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is waited for.

        Raises:
            PageError: it throws.
        """
        answer = self.ask(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            thrown = answer["exceptionDetails"]
            raise PageError(thrown.get("exception", {}).get("description", thrown["text"]))
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        picture = self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))

    def _events(self, method: str) -> list[dict[str, Any]]:
        self.run("new Promise(done => setTimeout(done, 50))")
        return [
            each["params"]
            for each in self._browser.events
            if each.get("method") == method and each.get("sessionId") == self._session
        ]

    @property
    def requests(self) -> list[str]:
        """Addresses of all that the page has asked for, itself included, but for what it holds in itself."""
        addresses = [each["request"]["url"] for each in self._events("Network.requestWillBeSent")]
        return [each for each in addresses if not each.startswith(("data:", "blob:"))]

    @property
    def complaints(self) -> list[str]:
        """What the browser has written into its console as an error: scripts that threw, refused content."""
        threw = [each["exceptionDetails"]["text"] for each in self._events("Runtime.exceptionThrown")]
        entries = [each["entry"] for each in self._events("Log.entryAdded")]
        return threw + [entry["text"] for entry in entries if entry["level"] == "error"]
