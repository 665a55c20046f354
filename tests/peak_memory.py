"""Memory that a process held at most, and not the one that started it.

`ru_maxrss` outlives exec (Linux: getrusage counts the image before it), so that a program which is started
from a large process seems to be as large, and does not seem to grow.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

_UNIT = 1 if sys.platform == "darwin" else 1024
_STARTER = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([used.ru_utime, used.ru_stime, used.ru_maxrss], file)
sys.exit(code)
"""


class Usage(NamedTuple):
    """Of one process: CPU seconds in the program and in the system, and the most bytes that it held."""

    user_s: float
    system_s: float
    peak: int


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def measure(command: Sequence[str | Path], **given: Any) -> Usage:
    """What a command uses, which a small process starts.

    Args:
        given: as of `subprocess.run`.

    Raises:
        CalledProcessError: the command failed.
    """
    with tempfile.NamedTemporaryFile() as file:
        starter = [sys.executable, "-I", "-S", "-c", _STARTER, file.name]
        subprocess.run([*starter, *map(str, command)], check=True, **given)
        user_s, system_s, peak = json.loads(Path(file.name).read_text())
    return Usage(user_s, system_s, peak * _UNIT)
