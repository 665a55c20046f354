"""How many threads a command computes with on the CPU, set before PyTorch is imported.

PyTorch takes all cores for each process, and its threads wait for each other in a busy loop: where others use
the cores too, most of the time goes there. So the threads of a process sleep while they wait, and share the
cores with the other processes of the same command. The number depends on the machine alone, not on what else
runs there, so that a run that is started again computes the same.
"""

import os
import sys

_CHOSEN = "PORTRAITGEN_THREADS"

MOST = 8
"""More help no network of ours that runs on a CPU."""


def set_threads() -> str | None:
    """Set the number of threads, unless OMP_NUM_THREADS does; the line to say of it, None if it was set."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "OMP_NUM_THREADS" in os.environ:
        return None
    cores = available_cores()
    processes = max(int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1)
    threads = max(1, min(cores // processes, MOST))
    _use(threads)
    os.environ[_CHOSEN] = str(threads)
    return f"computing on the CPU with {threads} of {cores} cores; OMP_NUM_THREADS=… for another number"


def share_threads(processes: int) -> None:
    """Share the threads that `set_threads` chose with processes that this one is about to start."""
    chosen = os.environ.pop(_CHOSEN, None)
    if chosen is not None and processes > 1:
        _use(max(1, int(chosen) // processes))


def _use(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def available_cores() -> int:
    """Cores that this process may use: those of its SLURM task, or of the machine."""
    task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if task.isdigit():
        return int(task)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
