"""What a training run asks SLURM about its own job, and how it gets into the queue again."""

import logging
import os
import re
import subprocess
from collections.abc import Mapping

log = logging.getLogger(__name__)

_TIMEOUT_S = 30


def slurm_job() -> str | None:
    """Number of the job that this process is in, as `scontrol` takes it; None outside of SLURM."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def starts_again_by_itself() -> bool:
    """Whether somebody has put this job into the queue again already, as `scontrol requeue` does."""
    restarts = _job_facts().get("Restarts", "")
    return restarts.isdigit() and int(restarts) > int(os.environ.get("SLURM_RESTART_COUNT", 0))


def is_preempted() -> bool:
    """Whether SLURM takes the machine back for another job; `scancel` sends the same signal."""
    return _job_facts().get("PreemptTime", "None") not in ("None", "Unknown", "")


def requeue_slurm_job() -> None:
    """Have SLURM run this job again; does nothing outside a SLURM job, and only logs when SLURM refuses.

    A job that submitit runs is left to submitit, which puts it into the queue itself.
    """
    job = slurm_job()
    if job is None or "SUBMITIT_EXECUTOR" in os.environ:
        return
    if starts_again_by_itself():
        log.warning("job %s is in the queue again", job)
        return
    try:
        _scontrol("requeue", job)
        log.warning("job %s is in the queue again", job)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        log.error("could not requeue job %s, submit it again to go on: %s", job, str(said).strip())


def _job_facts() -> Mapping[str, str]:
    job = slurm_job()
    if job is None:
        return {}
    try:
        shown = _scontrol("--oneliner", "show", "job", job)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(re.findall(r"(\w+)=(\S*)", shown.partition("\n")[0]))


def _scontrol(*words: str) -> str:
    done = subprocess.run(
        ["scontrol", *words], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S
    )
    return done.stdout
