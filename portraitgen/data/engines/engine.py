"""The protocol of engines: do many independent jobs somewhere, and lose none of them to a crash."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

_CODE = Path(__file__).resolve().parents[3]

Job = TypeVar("Job")
Result = TypeVar("Result")

Report = Callable[[str | None, float], None]
"""Called by the work with the item of its job that it is at (None: the job as a whole), before it begins with
it, and with how much it has done since the last call, in any unit."""

Work = Callable[[Job, Report, Mapping[str, str]], Result]
"""What is done with a job: `work(job, report, skip)`. Picklable: each process gets a copy, once, so that
models are loaded once a process. `skip` names the items that killed their process again and again, and how;
the work leaves them out and says so. Doing a job anew, from its beginning, gives the same result."""


def python_path() -> str:
    """PYTHONPATH for workers on other machines, on which they find this very code first."""
    return os.pathsep.join([str(_CODE), *filter(None, [os.environ.get("PYTHONPATH")])])


class WorkerDied(ValueError):
    """Worker processes died at one place again and again; the message says how and what to do."""


class Engine(Protocol):
    """Runs jobs. Results do not depend on which engine does."""

    def run(
        self, work: Work[Any, Result], jobs: Sequence[Any], *, progress: Callable[[float], None]
    ) -> list[Result]:
        """Do `work` on every job.

        Args:
            progress: called in this process with the amount of work done so far, as the work reports it; less
                than before where a job has to begin anew.

        Returns:
            Results in the order of `jobs`.

        Raises:
            WorkerDied: processes die before they have begun with any item.
            Exception: what `work` raised; the other jobs are then ended where they are.
        """
        ...
