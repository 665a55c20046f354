"""How far a long step is: a bar on a terminal, else a line with the time left now and then."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

LINE_EVERY_S = 10.0
"""Seconds between two lines, where standard error is not a terminal."""


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to call with how many steps are done and how many there are.

    Args:
        what: is being done, for the eye: "talk: denoising".
    """
    if sys.stderr.isatty():
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    time_left, last = TimeLeft(), time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        seconds = time_left(done, total)
        if seconds and time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            log.info("%s: %d of %d, %s left", what, done, total, timedelta(seconds=round(seconds)))

    yield report


class TimeLeft:
    """How long a row of steps will still take, by what the steps after the first took.

    Models are loaded before the first step, which says nothing of how long the others take.
    """

    def __init__(self) -> None:
        self._begun, self._first = 0.0, 0

    def __call__(self, done: int, total: int) -> float | None:
        """Seconds left when `done` of `total` steps are done; None: not known yet."""
        if not self._first:
            self._begun, self._first = time.monotonic(), done
        if done <= self._first:
            return None
        return (time.monotonic() - self._begun) / (done - self._first) * (total - done)
