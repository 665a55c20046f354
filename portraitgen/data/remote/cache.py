"""The cache on the node's disk: bounded, shared by all processes of the node that read there."""

import fcntl
import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from portraitgen.data.remote.blocks import DATA, SUMS, CachedBlocks
from portraitgen.media.files import replace_file

log = logging.getLogger(__name__)

_SIZE = ".size"
_LEFT = 0.9
_CHECKED_AFTER = 100  # times per capacity


class _Kept(NamedTuple):
    used: float
    bytes: int
    path: Path


class Cache:
    """Blocks of objects by name and version.

    Each process looks after every hundredth of the capacity that it wrote whether there is too much, and then
    removes the objects that were not read for longest, down to nine tenths.

    Args:
        folder: that is there; `RemoteShards.cache_folder`.
        capacity: in bytes.
    """

    def __init__(self, folder: Path, capacity: int) -> None:
        self.folder, self._capacity = folder, capacity
        self._written = 0
        self._full = False

    def blocks(self, url: str, version: str, size: int = 0) -> CachedBlocks:
        """Those of an object. Another version of it is another object."""
        return CachedBlocks(self.path(url, version), size)

    def path(self, url: str, version: str) -> Path:
        """Of an object's files, without what they end in."""
        return self.folder / hashlib.sha256(f"{url}\n{version}".encode()).hexdigest()[:32]

    def size(self, url: str, version: str) -> int | None:
        """Bytes of an object whose store does not say, as `keep_size` noted them; None: not known."""
        path = self.path(url, version).with_suffix(_SIZE)
        return int(path.read_bytes()) if path.is_file() else None

    def keep_size(self, url: str, version: str, size: int) -> None:
        """Note how many bytes an object has; one line says so where that cannot be."""
        try:
            replace_file(self.path(url, version).with_suffix(_SIZE), str(size).encode())
        except OSError as error:
            self._say(error)

    def keep(self, target: CachedBlocks, blocks: Mapping[int, bytes | memoryview]) -> None:
        """Write blocks of an object; what cannot be kept is not, and one line says so."""
        try:
            target.write(blocks)
            self._written += sum(map(len, blocks.values()))
            if self._written >= self._capacity // _CHECKED_AFTER:
                self._written = 0
                self.make_room()
        except OSError as error:
            self._say(error)

    def _say(self, error: OSError) -> None:
        if not self._full:
            log.warning(
                f"{self.folder} takes nothing more ({error.strerror}): what is fetched from now on is"
                " fetched again when it is read again. Make room, or lower data.remote.cache_gb"
            )
        self._full = True

    def make_room(self) -> None:
        """Remove what was not read for longest, if there is too much; one process at a time."""
        with (self.folder / "evict.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            stems = {path.stem for kind in (DATA, SUMS) for path in self.folder.glob(f"*{kind}")}
            kept = [_kept(self.folder / stem) for stem in stems]
            total = sum(entry.bytes for entry in kept)
            if total <= self._capacity:
                return
            for entry in sorted(kept):
                _remove(entry.path)
                total -= entry.bytes
                if total <= _LEFT * self._capacity:
                    return


def _kept(path: Path) -> _Kept:
    """Of an object: when it was used, and what it takes; 0 where a killed process has left a part of it."""
    used, taken = 0.0, 0
    for kind in (DATA, SUMS):
        try:
            facts = path.with_suffix(kind).stat()
        except FileNotFoundError:
            continue
        used, taken = facts.st_mtime if kind == SUMS else used, taken + 512 * facts.st_blocks
    return _Kept(used, taken, path)


def _remove(path: Path) -> None:
    """Take an object away; processes that have it open find nothing in it from now on."""
    for kind in (SUMS, DATA):
        try:
            os.truncate(path.with_suffix(kind), 0)
            path.with_suffix(kind).unlink()
        except FileNotFoundError:
            pass
