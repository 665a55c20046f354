"""Before a run starts as many SLURM tasks: are they started rightly, and do they reach each other?

Without this a wrong address, a port in use or a task that never came shows as a wait of half an hour and a
traceback on each rank.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

WAIT_S = 600.0
"""For the last task: to import everything from a busy file system can take minutes."""

_TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Variable of processes that torchrun started: they have met already."""

_RETRY_S = 0.5
_HELLO_S = 10.0
_MAX_HELLO_BYTES = 1000


def launch_problems(environment: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with how SLURM's tasks were started, as the environment variables tell."""
    tasks = environment.get("SLURM_NTASKS", "1")
    if not tasks.isdigit() or int(tasks) < 2 or _TORCHRUN in environment:
        return
    if "SLURM_STEP_ID" not in environment and "SLURM_STEPID" not in environment:
        yield (
            f"the job has {tasks} tasks, but srun did not start this process: write `srun python train.py …`,"
            " as experiments/slurm/train.sbatch does"
        )
        return
    if "SLURM_NTASKS_PER_NODE" not in environment:
        yield f"the job has {tasks} tasks, but not by --ntasks-per-node: give that instead of --ntasks"
    port = environment.get("MASTER_PORT", "15000")
    if not port.isdigit() or not 0 < int(port) < 65536:
        yield f"MASTER_PORT={port} is no port: give a number from 1 to 65535, or leave it to the job's number"


def meet(*, wait_s: float = WAIT_S) -> None:
    """Return when all SLURM tasks of the run have met at rank 0; at once where there are no others.

    Raises:
        ValueError: who is missing, or cannot reach rank 0, and what to look at.
    """
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    if int(os.environ.get("SLURM_NTASKS", 1)) < 2 or _TORCHRUN in os.environ or not SLURMEnvironment.detect():
        return
    slurm = SLURMEnvironment(auto_requeue=False)
    place, rank, size = (slurm.main_address, slurm.main_port), slurm.global_rank(), slurm.world_size()
    try:
        socket.getaddrinfo(*place)
    except socket.gaierror as error:
        raise ValueError(
            f"MASTER_ADDR {place[0]}, where rank 0 is to be found, is no known name of a machine"
            f" ({error.strerror}): set MASTER_ADDR to a name or address of the job's first node, which is"
            f" {os.environ.get('SLURMD_NODENAME', 'unknown')} here"
        ) from error
    if rank == 0:
        _gather(place, size, wait_s)
    else:
        _report(place, rank, size, wait_s)


def _gather(place: tuple[str, int], size: int, wait_s: float) -> None:
    """As rank 0: wait for all others, close the port, which the run itself is about to open, and say go."""
    deadline = time.monotonic() + wait_s
    try:
        server = socket.create_server(("", place[1]))
    except OSError as error:
        why = {errno.EADDRINUSE: "another program has it", errno.EACCES: "ports below 1024 are for root"}
        reason = why.get(error.errno or 0, error.strerror)
        raise ValueError(
            f"port {place[1]} of {socket.gethostname()}, at which the tasks are to meet, cannot be opened:"
            f" {reason}. Set MASTER_PORT to another one"
        ) from error
    came: dict[int, tuple[socket.socket, str]] = {}
    try:
        with server:
            while len(came) < size - 1:
                server.settimeout(max(deadline - time.monotonic(), 0.01))
                try:
                    caller, _ = server.accept()
                except TimeoutError:
                    raise ValueError(_missing(came, place, size, wait_s)) from None
                hello = _hello(caller)
                if hello is None:  # none of ours
                    caller.close()
                    continue
                rank, who = hello["rank"], f"process {hello['process']} on {hello['host']}"
                if rank in came or not 0 < rank < size or hello["size"] != size:
                    also = f", as does {came[rank][1]}" if rank in came else ""
                    raise ValueError(
                        f"{who} says it is rank {rank} of {hello['size']}{also}, but this run has {size}"
                        " tasks: start it once, by one srun"
                    )
                came[rank] = caller, who
        for caller, _ in came.values():
            with suppress(OSError):
                caller.sendall(b"go\n")
    finally:
        for caller, _ in came.values():
            caller.close()


def _report(place: tuple[str, int], rank: int, size: int, wait_s: float) -> None:
    """As any other: tell rank 0, and wait for its word."""
    deadline = time.monotonic() + wait_s
    hello = {"rank": rank, "size": size, "host": socket.gethostname(), "process": os.getpid()}
    while True:
        try:
            with socket.create_connection(place, timeout=_HELLO_S) as call:
                call.sendall(json.dumps(hello).encode() + b"\n")
                call.settimeout(max(deadline - time.monotonic(), 0.01))
                if call.recv(3) == b"go\n":
                    return
                reason = "it ended"
        except OSError as error:
            reason = str(error)
        if time.monotonic() > deadline:
            raise ValueError(
                f"rank {rank} on {hello['host']} waited {wait_s:.0f} s for rank 0 at {place[0]}, port"
                f" {place[1]} ({reason}): see the log of rank 0, and whether machines of this job reach each"
                " other at that port (MASTER_ADDR, MASTER_PORT)"
            )
        time.sleep(_RETRY_S)


def _hello(caller: socket.socket) -> dict[str, Any] | None:
    """What one of the tasks says of itself; None if it is none of ours."""
    caller.settimeout(_HELLO_S)
    try:
        with caller.makefile("rb") as file:
            said = json.loads(file.readline(_MAX_HELLO_BYTES))
    except (OSError, ValueError):
        return None
    right = isinstance(said, dict) and all(isinstance(said.get(key), int) for key in ("rank", "size"))
    return {"host": "?", "process": "?", **said} if right else None


def _missing(came: Mapping[int, object], place: tuple[str, int], size: int, wait_s: float) -> str:
    missing = [str(rank) for rank in range(1, size) if rank not in came]
    listed = ", ".join(missing[:8]) + (" …" if len(missing) > 8 else "")
    return (
        f"waited {wait_s:.0f} s at {place[0]}, port {place[1]}, for {len(missing)} of {size} tasks that did"
        f" not come: rank {listed}. See their logs, and whether their machines reach this one at that port"
    )
