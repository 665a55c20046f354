"""Tar shards as bytes in place: list the members without trusting them, read just what is asked for.

Nothing is mapped: a page of a map that the file no longer reaches ends the process without a word (SIGBUS),
whenever it is touched. A read that finds less than it should is an error with a name. Of a shard that lies
elsewhere (data/remote) what is read is fetched.
"""

import io
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from portraitgen.data.remote.address import Address
from portraitgen.data.remote.opened import open_bytes
from portraitgen.data.sample import DataError

Shard = Path | Address
"""Where a tar lies: on a disk of this machine, or elsewhere."""

_BLOCK = 512
# More than the order of samples mixes, fewer than a process may hold files open.
_MAX_OPEN = 64
# Bytes between two rows that cost less to read along than another call does.
_MAX_GAP = 1 << 16
_REGULAR_FILE = (b"0", b"\0")
_OCTAL = re.compile(rb"[0-7]*")


class Member(NamedTuple):
    """One file of a tar: its name, a label that is never used as a path, and where its bytes lie."""

    name: str
    offset: int
    size: int


class ReadableBytes(Protocol):
    """Bytes that are read by position."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> memoryview:
        """So many bytes from there on; fewer behind the end."""
        ...

    def fetch(self, spans: Iterable[tuple[int, int]]) -> None:
        """Bring near what will be read: first byte, and the first behind."""
        ...


class LocalFile:
    """Bytes of a file on a disk, read by position: forked processes may share one.

    Args:
        path: of the file. OSError when it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size

    def fetch(self, spans: Iterable[tuple[int, int]]) -> None:
        """It lies here."""

    def read(self, offset: int, size: int) -> memoryview:
        """So many bytes from there on, read once into memory of their own; fewer behind the end.

        Raises:
            DataError: the file has been cut short since it was opened, or the place is before its beginning.
        """
        if offset < 0:
            raise DataError(f"{self._path}: bytes before its beginning are asked for")
        size = max(min(size, self.size - offset), 0)  # memory is taken for what is there alone
        data = os.pread(self._file.fileno(), size, offset)
        return memoryview(data) if len(data) == size else self._read_on(data, offset, size)

    def _read_on(self, data: bytes, offset: int, size: int) -> memoryview:
        """The rest of a read that gave less than was asked for, as beyond two gigabytes."""
        parts, missing = [data], size - len(data)
        while missing:
            parts.append(os.pread(self._file.fileno(), missing, offset + size - missing))
            missing -= len(parts[-1])
            if not parts[-1]:
                now = os.fstat(self._file.fileno()).st_size
                raise DataError(
                    f"{self._path} was cut short while it was read: {now} bytes of {self.size}; prepare it"
                    " again"
                )
        return memoryview(b"".join(parts))


class Place(NamedTuple):
    """Bytes of an open tar that will be read: the first one, and the first one behind them."""

    archive: "Archive"
    begin: int
    end: int


class Archive:
    """A tar opened read-only, of which any part costs only its own bytes.

    Args:
        path: the shard. OSError when it cannot be opened, DataError when it cannot be fetched.
    """

    def __init__(self, path: Shard) -> None:
        self.path = path
        self.file: ReadableBytes = LocalFile(path) if isinstance(path, Path) else open_bytes(path)
        self.size = self.file.size

    def read(self, member: Member) -> memoryview:
        """The bytes of a member; fewer where the file ended when it was opened.

        Raises:
            DataError: the file has been cut short since.
        """
        return self.file.read(member.offset, member.size)

    def part(self, member: Member) -> "MemberBytes":
        """A member of which only what is taken is read."""
        return MemberBytes(self, member)

    def place(self, member: Member) -> Place:
        """Where a member lies."""
        return Place(self, member.offset, member.offset + member.size)

    def row_places(self, offset: int, row_bytes: int, rows: np.ndarray) -> list[Place]:
        """Where rows of an array lie, see `rows`; those that are read together in one."""
        runs = _row_runs(np.unique(rows), row_bytes)
        return [
            Place(self, offset + int(run[0]) * row_bytes, offset + (int(run[-1]) + 1) * row_bytes)
            for run in runs
        ]

    def rows(self, offset: int, row_bytes: int, rows: np.ndarray) -> np.ndarray:
        """Rows (int64 [n], any order) of an array of such rows that begins there: uint8 [n, row_bytes].

        Raises:
            DataError: the file ends before one of them.
        """
        if not row_bytes or not len(rows):
            return np.empty((len(rows), row_bytes), np.uint8)
        wanted, places = np.unique(rows, return_inverse=True)
        found = []
        for run in _row_runs(wanted, row_bytes):
            first, count = int(run[0]), int(run[-1] - run[0]) + 1
            data = self.file.read(offset + first * row_bytes, count * row_bytes)
            if len(data) < count * row_bytes:
                raise DataError(f"{self.path} ends before row {int(run[-1])} of an array")
            read = np.frombuffer(data, np.uint8).reshape(count, row_bytes)
            found.append(read if count == len(run) else read[run - first])
        together = found[0] if len(found) == 1 else np.concatenate(found)
        return together if np.array_equal(rows, wanted) else together[places]

    def members(self) -> Iterator[Member]:
        """Regular files in the order of the tar.

        Ends at the end mark, at a damaged header, or at a member that reaches past the end of the file.
        """
        offset = 0
        while offset + _BLOCK <= self.size:
            header = bytes(self.file.read(offset, _BLOCK))
            size = _member_size(header)
            if size is None or offset + _BLOCK + size > self.size:
                return
            if header[156:157] in _REGULAR_FILE:
                name = _text(header[345:500]) + "/" if header[257:262] == b"ustar" and header[345] else ""
                yield Member(name + _text(header[:100]), offset + _BLOCK, size)
            offset += _BLOCK + -(-size // _BLOCK) * _BLOCK


class MemberBytes(io.RawIOBase):
    """A member as bytes that are read when they are sliced, and as a file that is read from where it stands.

    Args:
        archive: it lies in.
        member: where.
    """

    def __init__(self, archive: Archive, member: Member) -> None:
        self._archive, self._member, self._place = archive, member, 0

    def __getitem__(self, part: slice) -> memoryview:
        begin, end, _ = part.indices(self._member.size)
        name, offset, _ = self._member
        return self._archive.read(Member(name, offset + begin, max(end - begin, 0)))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._member.size}[whence]
        self._place = max(start + offset, 0)
        return self._place

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        data = self[self._place : self._place + len(buffer)]
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def fetch_places(places: Iterable[Place]) -> None:
    """Bring near what will be read. DataError where it cannot be fetched."""
    spans: dict[int, tuple[Archive, list[tuple[int, int]]]] = {}
    for archive, begin, end in places:
        spans.setdefault(id(archive), (archive, []))[1].append((begin, end))
    for archive, wanted in spans.values():
        archive.file.fetch(wanted)


class OpenArchives:
    """Archives by number, opened when they are first asked for. One a process.

    Args:
        paths: of all that may be asked for.
    """

    def __init__(self, paths: Sequence[Shard]) -> None:
        self._paths = paths
        self._open: dict[int, Archive] = {}
        self._lock = threading.Lock()  # what is fetched ahead is so by other threads

    def __getitem__(self, number: int) -> Archive:
        archive = self._open.get(number)
        if archive is None:
            with self._lock:
                archive = self._open.get(number) or Archive(self._paths[number])
                if len(self._open) >= _MAX_OPEN:
                    del self._open[next(iter(self._open))]
                self._open[number] = archive
        return archive


def _row_runs(wanted: np.ndarray, row_bytes: int) -> list[np.ndarray]:
    """Rows, ascending, by what is read together: those between which there is little."""
    return np.split(wanted, np.flatnonzero(np.diff(wanted) > 1 + _MAX_GAP // row_bytes) + 1)


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
