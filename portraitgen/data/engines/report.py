"""What a worker says of its progress, not more often than anybody reads it."""

import time
from collections.abc import Callable


class Reporter:
    """Sends what the work reports: a new item at once, so that the right one is blamed; amounts now and then.

    Args:
        send: called with the item and what has been done since the last call.
        every_s: seconds between two calls about one item.
    """

    def __init__(self, send: Callable[[str | None, float], None], *, every_s: float) -> None:
        self._send, self._every_s = send, every_s
        self._item: str | None = None
        self._amount = 0.0
        self._sent_s = time.monotonic()

    def __call__(self, item: str | None, amount: float) -> None:
        new = item != self._item
        self._item = item
        self._amount += amount
        if new or time.monotonic() - self._sent_s >= self._every_s:
            self.flush()

    def flush(self) -> None:
        """Send what has not been sent."""
        self._send(self._item, self._amount)
        self._amount, self._sent_s = 0.0, time.monotonic()
