"""Hand jobs to workers that may die: begin their jobs anew, and leave out what kills them again and again."""

import signal
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from portraitgen.data.engines.engine import WorkerDied


@dataclass(frozen=True, slots=True)
class Progressed:
    """The worker of job `number` is at `item` and has done `amount` more."""

    number: int
    item: str | None
    amount: float


@dataclass(frozen=True, slots=True)
class Finished:
    number: int
    result: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """The work raised."""

    number: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class Died:
    """The worker is gone; `how` completes "its worker process …"."""

    number: int
    how: str


Event = Progressed | Finished | Failed | Died


class Crew(Protocol):
    """A number of workers, each of which does one job at a time."""

    size: int

    def start(self, number: int, job: Any, skip: Mapping[str, str]) -> None:
        """Give a job to a free worker."""
        ...

    def wait(self) -> Iterable[Event]:
        """What has happened since the last call; waits a moment if nothing has."""
        ...


def supervise(
    crew: Crew, jobs: Sequence[Any], *, retries: int, progress: Callable[[float], None]
) -> list[Any]:
    """Do all jobs with a crew; see `Engine.run`.

    Args:
        retries: how often a job is begun anew after its worker died at one and the same item. Then the item
            is left out.
    """
    waiting = deque(range(len(jobs)))
    results: dict[int, Any] = {}
    at: dict[int, str | None] = {}  # job that runs → the item it is at
    done: dict[int, float] = defaultdict(float)
    deaths: Counter[tuple[int, str | None]] = Counter()
    skips: dict[int, dict[str, str]] = {number: {} for number in range(len(jobs))}
    while len(results) < len(jobs):
        while waiting and len(at) < crew.size:
            number = waiting.popleft()
            at[number] = None
            crew.start(number, jobs[number], skips[number])
        for event in crew.wait():
            match event:
                case Progressed(number, item, amount):
                    at[number] = item
                    done[number] += amount
                    progress(sum(done.values()))
                case Finished(number, result):
                    del at[number]
                    results[number] = result
                case Failed(_, error):
                    raise error
                case Died(number, how):
                    item = at.pop(number)
                    done[number] = 0.0
                    deaths[number, item] += 1
                    if deaths[number, item] > retries:
                        if item is None:
                            raise WorkerDied(
                                f"a worker process {how} {retries + 1} times, at no particular file. What is "
                                "finished is kept: run the same command again, with fewer workers if memory "
                                "was short"
                            )
                        skips[number][item] = f"{how} each of {retries + 1} times"
                    waiting.appendleft(number)
    return [results[number] for number in range(len(jobs))]


class WorkerTraceback(Exception):
    """Where in a worker an error was raised; stands above it as its cause."""


def sendable(error: Exception) -> tuple[Exception, str]:
    """The error as it can cross to another process, whatever its class takes, and its traceback as text.

    All that matters there is whether it is the user's to mend (ValueError) or a defect.
    """
    text = "".join(traceback.format_exception(error))
    if isinstance(error, ValueError):
        return ValueError(str(error)), text
    return RuntimeError(f"{type(error).__name__}: {error}"), text


def with_traceback(error: BaseException, text: str) -> BaseException:
    """What `sendable` gave, as one error again."""
    error.__cause__ = WorkerTraceback(f"in a worker:\n{text}")
    return error


def describe_exit(code: int | None) -> str:
    """How a process ended, by its exit code as multiprocessing gives it: negative for a signal."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        why = ", as when memory runs out" if name == "SIGKILL" else ""
        return f"was killed ({name}{why})"
    return f"ended with exit code {code}"
