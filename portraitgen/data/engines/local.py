"""The engine of one machine: this process, or some processes beside it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from portraitgen.data.engines.engine import Result, Work
from portraitgen.data.engines.report import Reporter
from portraitgen.data.engines.supervise import (
    Died,
    Event,
    Failed,
    Finished,
    Progressed,
    describe_exit,
    sendable,
    supervise,
    with_traceback,
)

_REPORT_EVERY_S = 0.2


class LocalEngine:
    """Runs jobs in processes of this machine.

    Args:
        workers: number of processes, started fresh (spawn: no lock or thread of this process is inherited);
            with 0 everything is done in this process, which is what a debugger wants.
        retries: how often a job is begun anew whose process died at one and the same item.

    Raises:
        ValueError: a number below 0.
    """

    def __init__(self, workers: int, *, retries: int = 2) -> None:
        if workers < 0:
            raise ValueError(f"workers={workers}: give the number of processes, or 0 for none")
        if retries < 0:
            raise ValueError(f"retries={retries}: give 0 or more")
        self.workers, self.retries = workers, retries

    def run(
        self, work: Work[Any, Result], jobs: Sequence[Any], *, progress: Callable[[float], None]
    ) -> list[Result]:
        """See `Engine.run`."""
        if self.workers == 0:
            done = 0.0

            def report(_: str | None, amount: float) -> None:
                nonlocal done
                done += amount
                progress(done)

            return [work(job, report, {}) for job in jobs]
        crew = _ProcessCrew(work, min(self.workers, len(jobs)))
        try:
            return supervise(crew, jobs, retries=self.retries, progress=progress)
        finally:
            crew.close()


class _ProcessCrew:
    """Processes that wait for jobs at one end of a pipe each."""

    def __init__(self, work: Work[Any, Any], size: int) -> None:
        self.size = size
        self._work = work
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[Connection, Any] = {}
        self._busy: dict[Connection, int] = {}

    def start(self, number: int, job: Any, skip: Mapping[str, str]) -> None:
        free = next((each for each in self._processes if each not in self._busy), None) or self._hire()
        self._busy[free] = number
        try:
            free.send((job, dict(skip)))
        except OSError:
            pass  # it died while it was waiting; `wait` will find out

    def wait(self) -> Iterator[Event]:
        for ours in wait(list(self._busy), timeout=1.0):
            assert isinstance(ours, Connection)
            number = self._busy[ours]
            try:
                kind, *values = ours.recv()
            except (EOFError, OSError):  # the pipe closes when the process ends, after all that it has sent
                process = self._processes.pop(ours)
                process.join()
                ours.close()
                del self._busy[ours]
                yield Died(number, describe_exit(process.exitcode))
                continue
            if kind is not Progressed:
                del self._busy[ours]
            if kind is Failed:
                yield Failed(number, with_traceback(*values))
            else:
                yield kind(number, *values)

    def close(self) -> None:
        """End the processes, whatever they are at: unfinished jobs are begun anew another time."""
        for ours, process in self._processes.items():
            ours.close()
            process.kill()
        for process in self._processes.values():
            process.join()

    def _hire(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._work, theirs), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process
        return ours


def _serve(work: Work[Any, Any], pipe: Connection) -> None:
    """What a worker process does: jobs from the pipe, one after the other, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job, skip = pipe.recv()
        except EOFError:
            return
        reporter = Reporter(
            lambda item, amount: pipe.send((Progressed, item, amount)), every_s=_REPORT_EVERY_S
        )
        try:
            answer: tuple[Any, ...] = (Finished, work(job, reporter, skip))
        except Exception as error:
            answer = (Failed, *sendable(error))
        reporter.flush()
        pipe.send(answer)


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on for ever, or write beside the parent's next run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
