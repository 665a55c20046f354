"""A full disk, which libraries report each in its own way, said in one line."""

import errno
import shutil
from pathlib import Path

from portraitgen.media.blame import causes

_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("No space left on device", "Disk quota exceeded")


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that there is no space left."""
    return any(
        getattr(each, "errno", None) in _NUMBERS or any(words in str(each) for words in _WORDS)
        for each in causes(error)
    )


def disk_full_message(folder: Path) -> str:
    """What is to be done about the disk of `folder`, where the results go."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    needed = f"; the largest file in there takes {_readable(max(sizes))}" if sizes else ""
    return (
        f"the disk of {folder} is full: {_readable(shutil.disk_usage(folder).free)} are left{needed}. Free"
        " some space, or choose another folder (paths.runs=… or out=…), and start the same command again:"
        " what was finished is kept"
    )


def _readable(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1000
    raise AssertionError
