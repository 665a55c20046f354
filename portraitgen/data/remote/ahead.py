"""Fetch what the next samples need while the present ones are decoded."""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Upcoming(NamedTuple):
    """The positions of a batch, and of those that the same reader will be asked for after it."""

    now: list[int]
    ahead: list[int]


def with_upcoming(batches: Iterable[list[int]], *, readers: int, samples: int) -> Iterator[Upcoming]:
    """Batches, which readers take in turn, each with the next ones of its reader.

    Args:
        readers: how many there are.
        samples: how many are looked ahead at, as whole batches.
    """
    source = iter(batches)
    known = deque(islice(source, 1))
    while known:
        depth = -(-samples // max(len(known[0]), 1))
        known.extend(islice(source, max(readers * depth + 1 - len(known), 0)))
        ahead = [each for batch in islice(known, readers, readers * depth + 1, readers) for each in batch]
        yield Upcoming(known.popleft(), ahead)
        if not known:
            known.extend(islice(source, 1))


_ENDED_WITHIN = 5.0
"""Seconds that `close` waits for what is being run: a store that keeps silent must not hold up the end."""


class Ahead(Generic[Key]):
    """Runs a function for keys before its results are wanted, in threads that do not outlive the process.

    They are to be ended (`close`) once no results are wanted any more. What they hold at the moment of a
    fork, such as a lock of a library, the forked process would wait for without end.

    Args:
        function: what to run; what it raises, `wait` raises.
        threads: how many run it.
    """

    def __init__(self, function: Callable[[Key], None], *, threads: int) -> None:
        self._function = function
        self._waiting: queue.SimpleQueue[tuple[Key, Future[None]] | None] = queue.SimpleQueue()
        self._begun: dict[Key, Future[None]] = {}
        # An executor's threads would be waited for at the end of the process, retries and all.
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def begin(self, keys: Iterable[Key]) -> None:
        """Run it for these, in this order, unless that has begun."""
        for key in keys:
            if key not in self._begun:
                future: Future[None] = Future()
                self._begun[key] = future
                self._waiting.put((key, future))

    def wait(self, key: Key) -> None:
        """Return when it was run for this key."""
        self.begin([key])
        self._begun.pop(key).result()

    def close(self) -> None:
        """Run nothing more; return when what was being run has ended, or after some seconds."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        for _ in self._threads:
            self._waiting.put(None)
        end = time.monotonic() + _ENDED_WITHIN
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))

    def _run(self) -> None:
        while (task := self._waiting.get()) is not None:
            key, future = task
            try:
                self._function(key)
            except Exception as error:  # it is raised where the result is wanted
                future.set_exception(error)
            else:
                future.set_result(None)
