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
    begun: float | None = None
    last, first = time.monotonic(), 0

    def report(done: int, total: int) -> None:
        nonlocal begun, last, first
        now = time.monotonic()
        if begun is None:
            # Models are loaded before the first step, which says nothing of how long the others take.
            if done > 0:
                begun, first, last = now, done, now
            return
        if now - last >= LINE_EVERY_S and first < done < total:
            last = now
            left = timedelta(seconds=round((now - begun) / (done - first) * (total - done)))
            log.info("%s: %d of %d, %s left", what, done, total, left)

    yield report
