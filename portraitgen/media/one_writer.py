"""One writer a folder: of two commands that would write into it, the second is told of the first.

The folder holds `.writer.json` while somebody writes: who, where, since when. Its time of change is a
heartbeat, so that machines that share a file system, but no clock and no list of processes, know whether the
writer is alive. What a crash leaves is taken over: on the same machine at once, from another after
DEAD_AFTER_S.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Any

from portraitgen.media.files import cannot_write, replace_file, temporary_path

log = logging.getLogger(__name__)

FILE_NAME = ".writer.json"

BEAT_EVERY_S = 15.0
DEAD_AFTER_S = 120.0
"""Seconds without a heartbeat after which a writer on another machine is taken for dead."""

_SETTLE_S = 1.0
"""Two processes may find a dead writer at the same time: the one that writes last has the folder."""


class FolderInUse(ValueError):
    """Another process is writing into the folder; the message says which, where and since when."""


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Hold `folder` (made if it is not there) for this process inside the block.

    Raises:
        FolderInUse: somebody else does.
        ValueError: the folder cannot be made or written to.
    """
    path = folder / FILE_NAME
    mine = _describe()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _take(path, mine)
    except OSError as error:
        raise cannot_write(folder, error) from error
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, mine["token"], ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if _read(path).get("token") == mine["token"]:
            path.unlink(missing_ok=True)


def _take(path: Path, mine: Mapping[str, Any]) -> None:
    """Write `mine` to `path`, unless somebody who lives holds it."""
    content = json.dumps(mine, indent=1).encode()
    try:
        with path.open("xb") as file:
            file.write(content)
        return
    except FileExistsError:
        holder = _read_written(path)
    age = _age(path)
    if _is_alive(holder, mine, age):
        raise FolderInUse(_message(path.parent, holder, age))
    replace_file(path, content)
    time.sleep(_SETTLE_S)
    if (now := _read(path)).get("token") != mine["token"]:
        raise FolderInUse(_message(path.parent, now, 0.0))
    log.info("%s: what %s left there is taken over", path.parent, _who(holder))


def _describe() -> dict[str, Any]:
    job = os.environ.get("SLURM_JOB_ID")
    return {
        "token": uuid.uuid4().hex,
        "user": _user(),
        "host": socket.gethostname(),
        "machine": _machine(),
        "process": os.getpid(),
        "begun": _begun(os.getpid()),
        "job": None if job is None else f"{job}, start {os.environ.get('SLURM_RESTART_COUNT', '0')}",
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _is_alive(holder: Mapping[str, Any], mine: Mapping[str, Any], age: float) -> bool:
    """Whether the holder still runs, as far as can be known from here."""
    if holder.get("machine") == mine["machine"]:
        return _begun(int(holder.get("process", 0))) == holder.get("begun") is not None
    if (job := holder.get("job")) and mine["job"] and job != mine["job"]:
        same_job = job.partition(",")[0] == mine["job"].partition(",")[0]
        if same_job:  # SLURM starts a job again when all of its processes have ended
            return False
    return age < DEAD_AFTER_S


def _beat(path: Path, token: str, ended: threading.Event) -> None:
    while not ended.wait(BEAT_EVERY_S):
        with suppress(OSError):  # the file system may be away for a while
            if _read(path).get("token") != token:
                log.error("%s is written by another process now, which took this one for dead", path.parent)
                return
            os.utime(path)


def _read(path: Path) -> dict[str, Any]:
    """What the file says; nothing while it is being written, or where it is gone."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_written(path: Path) -> dict[str, Any]:
    """What the file says, after waiting a moment for a process that has just made it to write into it."""
    deadline = time.monotonic() + _SETTLE_S
    while not (content := _read(path)) and path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return content


def _age(path: Path) -> float:
    """Seconds since the heartbeat, by the clock of the file system."""
    probe = temporary_path(path.parent / "clock")
    try:
        probe.touch()
        return max(probe.stat().st_mtime - path.stat().st_mtime, 0.0)
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _machine() -> str:
    """Of processes with the same one, each sees whether another runs: start of the system, and container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _begun(process: int) -> str | None:
    """When a process of this machine began, which tells it from a later one of its number; None: gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _begun_without_proc(process)
    return None if fields[0] in "ZX" else fields[19]


def _begun_without_proc(process: int) -> str | None:
    if process <= 0 or Path("/proc/self").exists():
        return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def _user() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # a container may have no name for the user
        return str(os.getuid())


def _who(holder: Mapping[str, Any]) -> str:
    if not holder:
        return "a process that has just started"
    job = f" (job {holder['job']})" if holder.get("job") else ""
    return f"process {holder.get('process')} of {holder.get('user')} on {holder.get('host')}{job}"


def _message(folder: Path, holder: Mapping[str, Any], age: float) -> str:
    since = f", since {holder['since']}" if holder else ""
    message = (
        f"{folder} is being written by {_who(holder)}{since}. Wait for it, or choose another folder or name"
    )
    if age > 2 * BEAT_EVERY_S:
        left = max(DEAD_AFTER_S - age, 1.0)
        message += (
            f". It last showed a sign of life {age:.0f} s ago; if it is dead, start again in {left:.0f} s"
        )
    return message
