"""Fetch what the next samples need while the present ones are decoded."""

import queue
import threading
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


class Ahead(Generic[Key]):
    """Runs a function for keys before its results are wanted, in threads that do not outlive the process.

    Args:
        function: what to run; what it raises, `wait` raises.
        threads: how many run it.
    """

    def __init__(self, function: Callable[[Key], None], *, threads: int) -> None:
        self._function = function
        self._waiting: queue.SimpleQueue[tuple[Key, Future[None]]] = queue.SimpleQueue()
        self._begun: dict[Key, Future[None]] = {}
        for _ in range(threads):
            # An executor's threads would be waited for at the end of the process, retries and all.
            threading.Thread(target=self._run, daemon=True).start()

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

    def _run(self) -> None:
        while True:
            key, future = self._waiting.get()
            try:
                self._function(key)
            except Exception as error:  # it is raised where the result is wanted
                future.set_exception(error)
            else:
                future.set_result(None)
