"""What is done again and again beside the page, whatever came of it the last time."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Sweeper:
    """Calls `sweep` every `every_s` seconds, in a thread of its own; what it raises is logged."""

    def __init__(self, sweep: Callable[[], None], *, every_s: float) -> None:
        self._sweep, self._every_s = sweep, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it; a call that is at work is waited for."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                self._sweep()
            except Exception:  # the files of the visits to come have to go too
                log.exception("what is left of earlier visits could not be removed; it is tried again")
