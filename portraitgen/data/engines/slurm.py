"""The engine of a SLURM cluster: a job array whose tasks share the jobs out among them.

Task i takes the jobs i, i + N, i + 2N …, with a pool of processes of its own. submitit (the extra `slurm`)
submits the array and brings errors back; code and data lie on a file system that all machines share.
"""

import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from portraitgen.data.engines.engine import Result, Work, python_path
from portraitgen.data.engines.local import LocalEngine
from portraitgen.data.engines.supervise import sendable, with_traceback
from portraitgen.media.files import replace_file

log = logging.getLogger(__name__)

_POLL_S = 1.0
_REPORT_EVERY_S = 5.0


class SlurmEngine:
    """Runs jobs in a SLURM job array, and waits for it.

    Args:
        workers: processes in each array task, and the CPUs that it asks for.
        array: number of array tasks, at most.
        folder: shared by all machines, for submitit's scripts, logs and pickles. It must be writable by its
            owner only.
        cluster: "slurm"; "local" runs the array's tasks as processes of this machine, to try things out.
        retries: how often a job is begun anew whose process died at one and the same item.
        requeues: how often a task that ran into its time limit goes back into the queue.
        parameters: further options of submitit, such as timeout_min, slurm_partition or slurm_account.

    Raises:
        ValueError: submitit is not installed, or a number makes no sense.
    """

    def __init__(
        self,
        workers: int,
        *,
        array: int,
        folder: str,
        cluster: str = "slurm",
        retries: int = 2,
        requeues: int = 20,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        if array < 1:
            raise ValueError(f"engine.array={array}: give the number of array tasks, at least 1")
        if cluster not in ("slurm", "local"):
            raise ValueError(f"engine.cluster={cluster}: give slurm, or local to try it out on this machine")
        try:
            import submitit  # noqa: F401
        except ModuleNotFoundError:
            raise ValueError(
                "engine=slurm needs the package submitit. Run: pip install 'portraitgen[slurm]', or start "
                "prepare.py on one machine: sbatch experiments/slurm/prepare.sbatch"
            ) from None
        self.array, self.folder, self.cluster = array, Path(folder), cluster
        self.requeues = requeues
        self.pool = LocalEngine(workers, retries=retries)
        self.parameters = {"name": "prepare", "cpus_per_task": max(workers, 1), **(parameters or {})}

    def run(
        self, work: Work[Any, Result], jobs: Sequence[Any], *, progress: Callable[[float], None]
    ) -> list[Result]:
        """See `Engine.run`; a ValueError too where there is no SLURM, or when a task ends early."""
        num_tasks = min(self.array, len(jobs))
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        executor = self._executor()
        notes = [self.folder / f"progress-{os.getpid()}-{number}.json" for number in range(num_tasks)]
        with executor.batch():
            tasks = [
                executor.submit(_Part(self.pool, work, tuple(jobs[number::num_tasks])), note)
                for number, note in enumerate(notes)
            ]
        log.info(f"submitted {num_tasks} array tasks from {tasks[0].job_id} on; logs in {self.folder}")
        try:
            _follow(tasks, notes, progress)
        except KeyboardInterrupt:
            for task in tasks:
                task.cancel()
            raise
        finally:
            for note in notes:
                note.unlink(missing_ok=True)
        results: list[Any] = [None] * len(jobs)
        for number, task in enumerate(tasks):
            results[number::num_tasks] = _outcome(task)
        return results

    def _executor(self) -> Any:
        import submitit

        setup = f"export PYTHONPATH={shlex.quote(python_path())}"
        try:
            executor = submitit.AutoExecutor(
                self.folder, cluster=self.cluster, **{f"{self.cluster}_max_num_timeout": self.requeues}
            )
            executor.update_parameters(**{f"{self.cluster}_setup": [setup], **self.parameters})
        except RuntimeError as error:
            raise ValueError(
                f"engine=slurm: {error} Start it on a machine that has sbatch, or take engine=local"
            ) from error
        except (TypeError, NameError, AssertionError) as error:
            raise ValueError(f"engine.parameters: {error}") from error
        return executor


class _Part:
    """The jobs of one array task; travels there in a pickle."""

    def __init__(self, pool: LocalEngine, work: Work[Any, Any], jobs: tuple[Any, ...]) -> None:
        self._pool, self._work, self._jobs = pool, work, jobs

    def __call__(self, note: Path) -> list[Any] | tuple[Exception, str]:
        """Do the jobs, noting how much is done in the file `note`; an error is returned as `sendable`."""
        total, written_s = 0.0, time.monotonic()

        def progress(done: float) -> None:
            nonlocal total, written_s
            total = done
            if time.monotonic() - written_s >= _REPORT_EVERY_S:
                written_s = time.monotonic()
                replace_file(note, json.dumps(total).encode())

        try:
            results: list[Any] = self._pool.run(self._work, self._jobs, progress=progress)
        except Exception as error:
            return sendable(error)
        replace_file(note, json.dumps(total).encode())
        return results

    def checkpoint(self, note: Path) -> Any:
        """Near the time limit submitit puts the task back into the queue with this."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, note)


def _follow(tasks: Sequence[Any], notes: Sequence[Path], progress: Callable[[float], None]) -> None:
    """Wait for all tasks, passing on what their notes say."""
    known = dict.fromkeys(notes, 0.0)
    while True:
        ended = all(task.done() for task in tasks)
        for note in notes:
            if note.is_file():
                known[note] = float(json.loads(note.read_text()))
                progress(sum(known.values()))
        if ended:
            return
        time.sleep(_POLL_S)


def _outcome(task: Any) -> list[Any]:
    """The results of an array task.

    Raises:
        ValueError: it ended early, or its work raised.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

    try:
        results = task.result()
    except (UncompletedJobError, FailedJobError, FailedSubmissionError) as error:
        raise ValueError(
            f"array task {task.job_id} ended before its work was done (time limit, or a machine was lost; "
            f"see {task.paths.stderr}). What is finished is kept: run the same command again"
        ) from error
    if isinstance(results, tuple):
        raise with_traceback(*results)
    return list(results)
