"""Tar shards as bytes in place: list the members without trusting them, read any of them by memory map."""

import mmap
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from portraitgen.data.sample import DataError

_BLOCK = 512
# More than the order of samples mixes, fewer than a process may hold files open.
_MAX_OPEN = 64
_REGULAR_FILE = (b"0", b"\0")
_OCTAL = re.compile(rb"[0-7]*")


class Member(NamedTuple):
    """One file of a tar: its name, a label that is never used as a path, and where its bytes lie."""

    name: str
    offset: int
    size: int


class Archive:
    """A tar opened read-only by memory map, so that any member costs only the pages that are touched.

    The map is released with the last view of it. A page of a map that the file no longer reaches ends the
    process without a word (SIGBUS), so the file's size is asked for before each read: a microsecond.

    Args:
        path: the shard. OSError when it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size
        # An empty file cannot be mapped; it is an archive without members.
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else None
        self._view = memoryview(self._map) if self._map is not None else memoryview(b"")

    def read(self, member: Member) -> memoryview:
        """The bytes of a member, without a copy; fewer where the file ended when it was opened.

        Raises:
            DataError: the file has been cut short since.
        """
        size = os.fstat(self._file.fileno()).st_size
        if size < self.size:
            raise DataError(
                f"{self.path} was cut short while it was read: {size} bytes of {self.size}; prepare it again"
            )
        return self._view[member.offset : member.offset + member.size]

    def forget(self) -> None:
        """Give back the memory of all that was read; it can be read again."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    def members(self) -> Iterator[Member]:
        """Regular files in the order of the tar.

        Ends at the end mark, at a damaged header, or at a member that reaches past the end of the file.
        """
        offset = 0
        while offset + _BLOCK <= self.size:
            header = bytes(self._view[offset : offset + _BLOCK])
            size = _member_size(header)
            if size is None or offset + _BLOCK + size > self.size:
                return
            if header[156:157] in _REGULAR_FILE:
                name = _text(header[345:500]) + "/" if header[257:262] == b"ustar" and header[345] else ""
                yield Member(name + _text(header[:100]), offset + _BLOCK, size)
            offset += _BLOCK + -(-size // _BLOCK) * _BLOCK


class OpenArchives:
    """Archives by number, opened when they are first asked for. One a process.

    Args:
        paths: of all that may be asked for.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: dict[int, Archive] = {}

    def __getitem__(self, number: int) -> Archive:
        if number not in self._open:
            if len(self._open) >= _MAX_OPEN:
                del self._open[next(iter(self._open))]
            self._open[number] = Archive(self._paths[number])
        return self._open[number]


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", errors="replace")


def _member_size(header: bytes) -> int | None:
    """Size field of a USTAR header; None for the end mark and for a header whose checksum is wrong."""
    fields = [header[begin:end].split(b"\0", 1)[0].strip() for begin, end in ((148, 156), (124, 136))]
    # Octal digits and nothing else: int() would take a sign too, and a negative size leads back for ever.
    if not fields[0] or not all(_OCTAL.fullmatch(field) for field in fields):
        return None
    checksum, size = (int(field or b"0", 8) for field in fields)
    # The checksum is taken with its own field read as blanks.
    return size if checksum == sum(header) - sum(header[148:156]) + 8 * ord(" ") else None
