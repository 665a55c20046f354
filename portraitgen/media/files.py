"""Write files so that a reader never sees half of one: temporary name in the same folder, fsync, rename."""

import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ASKING = threading.Lock()
_LEFTOVER = re.compile(r"\..+\.\d+\.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes `path` when the block ends well, else it is removed.

    The content is on the disk before the name changes, so a power cut leaves either the old file or the new
    one.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        if temporary.is_file():
            temporary.chmod(0o666 & ~_umask())  # some libraries give their files to nobody else
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path`, all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def writable_folder(folder: Path) -> Path:
    """Make `folder`, remove what writers that were killed left in it, and return it.

    Raises:
        ValueError: nothing can be written there; better known before the first step than after the
            thousandth.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            if _LEFTOVER.fullmatch(file.name):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        probe = temporary_path(folder / "probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def cannot_write(folder: Path, error: OSError) -> ValueError:
    """What to say of a folder that cannot be made or written to."""
    return ValueError(
        f"cannot write to {folder}: {error.strerror}. Make it writable, or choose another folder"
    )


_NAME_BYTES = 255
"""Of a file's name, on every file system that is in use."""


def is_file_name(name: str) -> bool:
    """Whether a file system takes it, as one part of a path."""
    return "\0" not in name and len(name.encode(errors="replace")) <= _NAME_BYTES


def inside(folder: Path, name: str) -> Path:
    """The file of this name in `folder` or in a folder of it; for names that come out of a file.

    Raises:
        ValueError: the name leads out of the folder, by "..", as an absolute path or through a link.
    """
    path = folder / name
    if not all(map(is_file_name, path.parts)):
        raise ValueError(f"{name[:40]}… is no name of a file, or longer than one is")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} does not lie in {folder}")
    return path


def temporary_path(path: Path, *, owner: int | None = None) -> Path:
    """What `path` is called while it is written; `writable_folder` removes such leftovers.

    Args:
        owner: who writes it; None: this process.
    """
    return path.with_name(f".{path.name}.{os.getpid() if owner is None else owner}.tmp")


def _umask() -> int:
    """What new files must not allow.

    It can only be asked for by setting it, which files that other threads make meanwhile would see, and two
    that ask at once would leave it changed; but Linux tells.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    with _ASKING:
        mask = os.umask(0o077)
        os.umask(mask)
        return mask


def sync(path: Path) -> None:
    """Return when the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
