"""One job at a time: the queue before the machine, how far a job is, and how it is stopped."""

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from portraitgen.runs.demo.limits import Limits
from portraitgen.runs.demo.memory import free_memory
from portraitgen.runs.progress import TimeLeft


class Cancelled(Exception):
    """The visitor wants the job no more, or is gone."""


class OutOfMemory(Exception):
    """The job needs more memory than there is."""


class Job:
    """Work of one visitor, and what may be seen of it from outside while it runs.

    Attributes:
        stage: what is being done, for the eye.
        done, total: steps of it; total 0: not known.
        seconds_left: of this stage; None: not known.
        picture: JPEG of the newest frame beside what it is made of.
        notes: warnings that came up.
        result, error: what came of it, one of them when `finished`.
    """

    def __init__(self, work: Callable[["Job"], Any], limits: Limits) -> None:
        self.work = work
        self.stage = "waiting"
        self.done, self.total = 0, 0
        self.seconds_left: float | None = None
        self.picture: bytes | None = None
        self.notes: list[str] = []
        self.result: Any = None
        self.error: BaseException | None = None
        self.finished = threading.Event()
        self._limits = limits
        self._cancelled = threading.Event()
        self._until: float | None = None

    def cancel(self) -> None:
        """End it at its next step, or before it begins."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def check(self) -> None:
        """Called between steps, where a job can end.

        Raises:
            Cancelled: nobody wants it any more.
            OutOfMemory: the machine is about to run out of memory.
            ValueError: it has taken too long.
        """
        if self.is_cancelled:
            raise Cancelled
        if self._until is not None and time.monotonic() > self._until:
            raise ValueError(
                f"this took more than the {self._limits.minutes:g} minutes that this page gives to one result"
            )
        free = free_memory()
        if free is not None and free < self._limits.free_memory_mb << 20:
            raise OutOfMemory

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """See `training.inputs.Resources.progress`."""
        yield self.begin(what)

    def begin(self, stage: str) -> Callable[[int, int], None]:
        """A new stage; to be called with how many of its steps are done and how many there are."""
        self.stage, self.done, self.total, self.seconds_left = stage, 0, 0, None
        time_left = TimeLeft()
        self.check()

        def on_step(done: int, total: int) -> None:
            self.done, self.total, self.seconds_left = done, total, time_left(done, total)
            self.check()

        return on_step

    def run(self) -> None:
        """Do the work, in the thread that calls."""
        self._until = time.monotonic() + 60 * self._limits.minutes
        try:
            self.check()
            with _heard(self.notes):
                self.result = self.work(self)
        except BaseException as error:
            raised: BaseException | None = error
            while raised is not None:
                traceback.clear_frames(raised.__traceback__)  # they hold what it was drawn from
                raised = raised.__cause__ or raised.__context__
            self.error = error
        finally:
            self.finished.set()


@contextmanager
def _heard(notes: list[str]) -> Iterator[None]:
    """Adds to `notes` what this thread warns of."""

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == threading.get_ident():
                notes.append(record.getMessage())

    ear, ours = Ear(logging.WARNING), logging.getLogger("portraitgen")
    ours.addHandler(ear)
    try:
        yield
    finally:
        ours.removeHandler(ear)


class Desk:
    """Takes jobs and does them one after the other, in a thread of its own."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._change = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._serve, name="desk", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Job], Any]) -> Job:
        """Put a job behind the others.

        Raises:
            ValueError: too many wait already.
        """
        with self._change:
            if len(self._waiting) >= self._limits.waiting:
                raise ValueError(f"{len(self._waiting)} people are waiting already: come back in a while")
            job = Job(work, self._limits)
            self._waiting.append(job)
            self._change.notify()
            return job

    def before(self, job: Job) -> int:
        """How many jobs come before this one; 0 when it is at work or has been."""
        with self._change:
            if job not in self._waiting:
                return 0
            return self._waiting.index(job) + (self._running is not None)

    def leave(self, job: Job) -> None:
        """Stop a job: at once where it waits, else at its next step."""
        job.cancel()
        with self._change:
            if job in self._waiting:
                self._waiting.remove(job)
                job.error = Cancelled()
                job.finished.set()

    def close(self) -> None:
        """Stop all jobs and end the thread."""
        with self._change:
            self._open = False
            jobs = [*self._waiting, *([self._running] if self._running else [])]
            self._change.notify()
        for job in jobs:
            self.leave(job)
        self._thread.join()

    def _serve(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or not self._open)
                if not self._waiting:
                    return
                self._running = self._waiting.popleft()
            self._running.run()
            # What a job was made of is not kept until the next one comes.
            with self._change:
                self._running = None
