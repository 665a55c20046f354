"""How much memory is left on this machine, or to the container that this process runs in (cgroup v2)."""

import re
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Bytes that can be taken without anything being killed; None where the system does not say."""
    stated = [value for value in (_of_machine(), _of_group()) if value is not None]
    return min(stated, default=None)


def _of_machine() -> int | None:
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def _of_group() -> int | None:
    """What cgroup v2 leaves; what it holds of files can be let go."""
    try:
        limit = (_GROUP / "memory.max").read_text().strip()
        used = int((_GROUP / "memory.current").read_text())
        files = re.search(r"^inactive_file (\d+)", (_GROUP / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(limit) - used + (int(files[1]) if files else 0) if limit.isdecimal() else None
