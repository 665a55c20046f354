"""Shards that can only be read from the beginning to the end: what a command prints, plain servers.

Samples are read in an order that mixes shards, so a shard is streamed whole onto the node's disk and read
there in place: samples, their order and an exact resume are those of shards on a disk. A resume skips the
shards that it does not need.
"""

import fcntl
import logging
import subprocess
import tarfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from portraitgen.data.remote.address import Address
from portraitgen.data.remote.blocks import BLOCK
from portraitgen.data.remote.cache import Cache
from portraitgen.data.remote.file import Blocks, RemoteFile
from portraitgen.data.remote.store import StoreError, retrying, store_of

log = logging.getLogger(__name__)

_KEPT_AT_ONCE = 64
# Whoever writes into a closed pipe is ended, and a shell reports that as 128 + 13.
_ENDED_BY_US = (0, -13, 141)


class StreamedFile(RemoteFile):
    """A tar that is streamed whole when a part of it is missing; one process does, the others wait for it.

    Args:
        address, cache, version, tag: see RemoteFile.
        size: in bytes; None where it is known only when all was read, as of what a command prints.

    Raises:
        DataError: the command or the server gives no whole tar.
    """

    def __init__(
        self, address: Address, cache: Cache, *, version: str, size: int | None = None, tag: str = ""
    ) -> None:
        super().__init__(address, cache, version=version, tag=tag)
        self._lock = cache.path(address.unsigned, version).with_suffix(".lock")
        if size is None:
            size = cache.size(address.unsigned, version)
        if size is None:
            self._fetch([])
        else:
            self._blocks.size = size

    def _fetch(self, numbers: Sequence[int]) -> Blocks:
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (known := self._cache.size(self._address.unsigned, self.version)) is not None:
                self._blocks.size = known
                # What another process has streamed meanwhile.
                found: Blocks = {}
                for number in numbers:
                    found |= self._blocks.read(range(number, number + 1))
                if len(found) == len(numbers):
                    return found
            log.info(f"{self._address} is streamed onto the disk")
            wanted = set(numbers)
            blocks, size = retrying(self._address, lambda: self._streamed(wanted))
            self._cache.keep_size(self._address.unsigned, self.version, size)
            self._blocks.size = size
            if len(blocks) < len(wanted):
                raise StoreError(
                    f"data.shards: {self._address} has become shorter since it was opened, {size} bytes:"
                    " start again, and shards are looked for anew"
                )
            return blocks

    def _streamed(self, wanted: Collection[int]) -> tuple[Blocks, int]:
        """Read all of it into the cache; gives the blocks wanted, and how many bytes there are."""
        from webdataset.tariterators import tar_file_iterator

        copied = _Copied(self, wanted)
        with _opened(self._address, self._tag) as copied.stream:
            try:
                # The reader sees whether members are whole; what lies behind the end mark comes after it.
                for _ in tar_file_iterator(copied):
                    pass
            except tarfile.TarError as error:
                raise EOFError(f"not a whole tar ({error})") from error
            copied.finish()
        return copied.found, copied.size

    def keep(self, blocks: Blocks) -> None:
        self._cache.keep(self._blocks, blocks)


class _Copied:
    """A stream that is copied into the cache, block by block, while it is read."""

    stream: Any

    def __init__(self, file: StreamedFile, wanted: Collection[int]) -> None:
        self._file, self._wanted = file, wanted
        self._next, self._pending = 0, bytearray()
        self.size = 0
        self.found: Blocks = {}

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.size += len(data)
        self._pending += data
        if len(self._pending) >= _KEPT_AT_ONCE * BLOCK:
            self._keep(len(self._pending) // BLOCK * BLOCK)
        return data

    def finish(self) -> None:
        """Read to the end."""
        while self.read(1 << 20):
            pass
        self._keep(len(self._pending))

    def _keep(self, count: int) -> None:
        data = memoryview(bytes(self._pending[:count]))
        del self._pending[:count]
        blocks: Blocks = {self._next + i // BLOCK: data[i : i + BLOCK] for i in range(0, count, BLOCK)}
        self._next += len(blocks)
        self.found |= {number: blocks[number] for number in blocks.keys() & self._wanted}
        self._file.keep(blocks)


@contextmanager
def _opened(address: Address, tag: str) -> Iterator[Any]:
    """The stream of a shard; OSError when the command fails."""
    if not address.is_pipe:
        with store_of(address).stream(address, tag=tag) as stream:
            yield stream
        return
    from webdataset.gopen import gopen

    stream = gopen(address.url, "rb")
    try:
        yield stream
        stream.close()
    except (OSError, EOFError) as error:
        # Its own message holds the whole command, which may hold a password.
        if status := _end(stream):
            raise OSError(f"the command ended with exit code {status}") from error
        raise
    finally:
        _end(stream)


def _end(stream: Any) -> int | None:
    """End a command of which no more is wanted; its exit code, None where it ended because of that."""
    stream.stream.close()
    try:
        status = stream.proc.wait(2)
    except subprocess.TimeoutExpired:
        stream.proc.kill()
        stream.proc.wait()
        return None
    return None if status in _ENDED_BY_US else status
