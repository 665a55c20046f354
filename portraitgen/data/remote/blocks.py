"""One object in the cache: those of its blocks that were fetched, at their places in a sparse file.

Beside the bytes lies a checksum of each block that is there; a block whose checksum is wrong is not there.
So processes need not wait for each other: whoever misses a block fetches it, the same bytes come to the same
place, and what a crash or an eviction left half is fetched again.
"""

import os
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

BLOCK = 1 << 14
"""Bytes. Half a block is read too many at either end of a span; a key frame of 512x512 has some 20 kB."""

DATA, SUMS = ".data", ".sums"
"""What the two files are called behind the name of the object."""

_TOUCHED_AFTER = 10.0


class CachedBlocks:
    """The blocks of one object that a node has.

    Args:
        path: of both files, without what they end in.
        size: of the object, in bytes; it may be set later, before blocks are read.

    Raises:
        OSError: the files cannot be made.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self.size = path, size
        self._touched = 0.0
        self._open()

    def _open(self) -> None:
        opened = [
            os.fdopen(
                os.open(self._path.with_suffix(kind), os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0
            )
            for kind in (DATA, SUMS)
        ]
        # A thread that reads holds the pair that it began with; it is closed when the last one leaves it.
        self._files = opened[0], opened[1]

    @property
    def count(self) -> int:
        """Of all blocks of the object."""
        return -(-self.size // BLOCK)

    def span(self, number: int) -> tuple[int, int]:
        """First byte of a block, and the first byte behind it."""
        return number * BLOCK, min((number + 1) * BLOCK, self.size)

    def read(self, numbers: range) -> dict[int, memoryview]:
        """Those of consecutive blocks that are there."""
        data_file, sums_file = self._files
        self._touch()
        begin, end = numbers.start * BLOCK, min(numbers.stop * BLOCK, self.size)
        sums = np.frombuffer(os.pread(sums_file.fileno(), 4 * len(numbers), 4 * numbers.start), "<u4")
        if not sums.any():
            return {}
        data = memoryview(os.pread(data_file.fileno(), end - begin, begin))
        found = {}
        for number, expected in zip(numbers, sums.tolist(), strict=False):
            first, last = self.span(number)
            block = data[first - begin : last - begin]
            if expected and len(block) == last - first and _checksum(block) == expected:
                found[number] = block
        return found

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Those of these blocks that are noted as missing; the bytes of the others are not looked at."""
        _, sums_file = self._files
        self._touch()
        sums = np.frombuffer(os.pread(sums_file.fileno(), 4 * self.count, 0), "<u4")
        return [number for number in numbers if number >= len(sums) or not sums[number]]

    def write(self, blocks: Mapping[int, bytes | memoryview]) -> None:
        """Keep blocks. OSError when the disk is full."""
        if not all(os.fstat(file.fileno()).st_nlink for file in self._files):
            self._open()  # another process removed them to make room
        data_file, sums_file = self._files
        for number, block in blocks.items():
            os.pwrite(data_file.fileno(), block, number * BLOCK)
            os.pwrite(sums_file.fileno(), _checksum(block).to_bytes(4, "little"), 4 * number)

    def _touch(self) -> None:
        """Note the time of use, now and then."""
        now = time.monotonic()
        if now - self._touched > _TOUCHED_AFTER:
            self._touched = now
            os.utime(self._files[1].fileno())


def _checksum(block: bytes | memoryview) -> int:
    return zlib.crc32(block) or 1  # 0 stands for a block that is not there
