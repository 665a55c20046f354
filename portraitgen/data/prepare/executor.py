"""Run jobs in this process or in a pool of processes."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Job = TypeVar("Job")

Work = Callable[[Job, Callable[[], None]], None]
"""What is done with a job; the second argument is to be called after each step of it."""

# Set once when a worker process starts, so that what the work carries (settings, models) travels once.
_work: Work[Any] | None = None
_steps: Any = None


def run_jobs(work: Work[Job], jobs: Sequence[Job], *, workers: int, step_done: Callable[[], None]) -> None:
    """Do `work` on every job.

    Args:
        work: picklable; each process gets a copy.
        workers: number of processes, started fresh (spawn: no lock or thread of this process is inherited);
            with 0 everything is done in this process, which is what a debugger wants.
        step_done: called in this process for every step that the work reports.

    Raises:
        ValueError: a worker process died (killed, or out of memory).
        Exception: what `work` raised. Jobs that have not begun are dropped, those that have are ended first.
    """
    if workers == 0 or len(jobs) <= 1:
        for job in jobs:
            work(job, step_done)
        return
    context = multiprocessing.get_context("spawn")
    steps = context.SimpleQueue()
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_start, initargs=(work, steps))
    try:
        waiting: set[Future[None]] = {pool.submit(_do, job) for job in jobs}
        while waiting:
            done, waiting = wait(waiting, timeout=0.2)
            while not steps.empty():
                steps.get()
                step_done()
            for future in done:
                if error := future.exception():
                    raise error
    except BrokenProcessPool:
        raise ValueError(
            "a worker process died, as happens when memory runs out. Finished shards are kept: run the same "
            "command again, with fewer workers if it happens again"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        steps.close()


def _start(work: Work[Any], steps: Any) -> None:
    global _work, _steps
    _work, _steps = work, steps
    # A worker whose parent was killed would wait for jobs for ever, or write beside the parent's next run.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(job: Any) -> None:
    assert _work is not None
    _work(job, lambda: _steps.put(None))
