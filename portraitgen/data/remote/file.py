"""The bytes of a remote object as if it lay here: what is asked for is fetched once and kept on the disk."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from portraitgen.data.remote.address import Address
from portraitgen.data.remote.blocks import BLOCK
from portraitgen.data.remote.cache import Cache
from portraitgen.data.remote.store import Span, StoreError, store_of
from portraitgen.data.sample import DataError

Blocks = dict[int, bytes | memoryview]

# Blocks between two spans that cost less to fetch along than another request does: 64 kB.
_MAX_GAP = 4
# Blocks of one request: of a large span several are made at a time.
_MAX_REQUEST = (4 << 20) // BLOCK


class RemoteFile(ABC):
    """An object of a store, by way of the cache. Threads may share one, and so may forked processes.

    Args:
        address: of the object.
        cache: of the node.
        version: changes when the object does.
        size: in bytes.
        tag: of the object, see ObjectFacts.

    Raises:
        DataError: the cache cannot be opened.
    """

    def __init__(self, address: Address, cache: Cache, *, version: str, size: int = 0, tag: str = "") -> None:
        self._address, self._cache, self.version, self._tag = address, cache, version, tag
        try:
            self._blocks = cache.blocks(address.unsigned, version, size)
        except OSError as error:  # it would else count as a broken sample
            raise StoreError(
                f"data.shards: {address} cannot be kept in {cache.folder} ({error.strerror}): make room, or"
                " choose another folder (data.remote.cache=…)"
            ) from error

    @property
    def size(self) -> int:
        return self._blocks.size

    def read(self, offset: int, size: int) -> memoryview:
        """So many bytes from there on; fewer behind the end.

        Raises:
            DataError: they cannot be fetched.
        """
        if offset < 0:
            raise DataError(f"{self._address}: bytes before its beginning are asked for")
        end = min(offset + size, self.size)
        if end <= offset:
            return memoryview(b"")
        numbers = range(offset // BLOCK, -(-end // BLOCK))
        found: Blocks = {**self._blocks.read(numbers)}
        if len(found) < len(numbers):
            found |= self._fetch([number for number in numbers if number not in found])
        first = numbers.start * BLOCK
        if len(numbers) == 1:
            return memoryview(found[numbers.start])[offset - first : end - first]
        together = b"".join(found[number] for number in numbers)
        return memoryview(together)[offset - first : end - first]

    def fetch(self, spans: Iterable[Span]) -> None:
        """Bring what is missing of these spans into the cache, in as few requests as are worth it.

        Raises:
            DataError: they cannot be fetched.
        """
        within = [(max(begin, 0), min(end, self.size)) for begin, end in spans]
        numbers = {number for begin, end in within for number in range(begin // BLOCK, -(-end // BLOCK))}
        missing = self._blocks.missing(sorted(numbers))
        if missing:
            self._fetch(missing)

    @abstractmethod
    def _fetch(self, numbers: Sequence[int]) -> Blocks:
        """These blocks, given in order, from the store; they are kept in the cache."""


class RangedFile(RemoteFile):
    """An object of a store that gives ranges of bytes."""

    def _fetch(self, numbers: Sequence[int]) -> Blocks:
        """Fetches what lies in small gaps between them too."""
        runs = [[numbers[0], numbers[0]]]
        for number in numbers:
            if number - runs[-1][1] > _MAX_GAP or number - runs[-1][0] >= _MAX_REQUEST:
                runs.append([number, number])
            runs[-1][1] = number + 1
        spans = [(self._blocks.span(first)[0], self._blocks.span(last - 1)[1]) for first, last in runs]
        blocks: Blocks = {}
        parts = store_of(self._address).read(self._address, spans, tag=self._tag)
        for (first, last), data in zip(runs, parts, strict=True):
            view = memoryview(data)
            blocks |= {n: view[(n - first) * BLOCK : (n + 1 - first) * BLOCK] for n in range(first, last)}
        self._cache.keep(self._blocks, blocks)
        return blocks
