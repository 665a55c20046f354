"""Examples by position: position -> sample, as a pure function of the seed, and a batch as it is read.

What an example is made of is a setting of the data module (`data.examples`): `ClipExamples` or
`PhotoExamples`. They say which samples of a catalog can be used and write one of them into its place in a
batch; everything else, here and in the loader, knows no kind of example.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from portraitgen.data.archive import Place, fetch_places
from portraitgen.data.batch import BatchLayout
from portraitgen.data.catalog import Catalog, Range
from portraitgen.data.order import Order
from portraitgen.data.remote.ahead import Ahead, Upcoming
from portraitgen.data.remote.settings import RemoteShards
from portraitgen.data.remote.store import StoreError
from portraitgen.data.sample import DataError
from portraitgen.data.selection import Selection
from portraitgen.data.slabs import Slab, SlabRing

# A run of broken samples this long is not bad luck: a disk or a whole shard is gone.
MAX_FAILURES_IN_A_ROW = 16

Span = tuple[float, float]
Texts = dict[str, str | list[str]]
"""What a sample says in words, by the key in the batch."""


class Examples(Protocol):
    """What an example is made of: settings, which open a catalog."""

    def open(
        self, catalog: Catalog, *, span: Span, filters: Mapping[str, Range], grading: bool
    ) -> "OpenExamples":
        """The samples that can be used, and how they are read.

        Args:
            span: share of the data: of each clip, or of the photos.
            filters: by scores, see Catalog.passing.
            grading: whether people and metrics look at them, who want to see the pictures too.

        Raises:
            DataError: the samples cannot be used as asked.
        """
        ...


class OpenExamples(Protocol):
    """Samples of a catalog that can be used, read one at a time."""

    @property
    def selection(self) -> Selection: ...

    @property
    def layouts(self) -> Sequence[BatchLayout]:
        """Of the batches of each bucket, see Selection."""
        ...

    @property
    def constants(self) -> Mapping[str, Tensor]:
        """What every batch has beside, the same in all of them; batch axis 1."""
        ...

    def places(self, sample: int, rng: np.random.Generator) -> list[Place]:
        """What `fill` will read of a sample, given a generator in the same state; it may be called by other
        threads. What is left out is fetched later, when it is read.

        Raises:
            ValueError, OSError: it cannot be said.
        """
        ...

    def fill(self, sample: int, rng: np.random.Generator, targets: dict[str, np.ndarray]) -> Texts:
        """Read a sample of the selection into its part of a batch.

        Raises:
            ValueError, OSError: it cannot be read.
        """
        ...


class Failure(NamedTuple):
    """A sample that was chosen and could not be read."""

    shard: str
    key: str
    reason: str


class _Wanted(NamedTuple):
    """A sample that is read for a position, after so many that could not be."""

    position: int
    attempt: int
    sample: int


class ReadBatch(NamedTuple):
    """A batch as it is read; `tensors` on a slab if there was a free one."""

    keys: list[str]
    texts: dict[str, list[str | list[str]]]
    tensors: dict[str, Tensor] | Slab
    failures: list[Failure]


class ExamplesByPosition:
    """Map-style data set over positions 0, 1, 2, ... without end.

    Args:
        examples: the samples.
        order: position -> sample.
        seed: of all that is drawn of a sample; it depends on the seed and the position only.
    """

    def __init__(self, examples: OpenExamples, order: Order, *, seed: int) -> None:
        self.order, self.layouts, self.constants = order, examples.layouts, examples.constants
        self._examples, self._seed = examples, seed
        self.ring: SlabRing | None = None
        self._ahead: Ahead[_Wanted] | None = None

    @property
    def remote(self) -> RemoteShards | None:
        """How shards that lie elsewhere are read; None where all lie here."""
        catalog = self._examples.selection.catalog
        return catalog.remote if catalog.is_remote else None

    def __getitems__(self, wanted: Sequence[int] | Upcoming) -> ReadBatch | DataError:
        """Read a batch, of one bucket; a sample that cannot be read is replaced by the next in order.

        A DataError is returned, not raised, so that it crosses from a worker without a traceback.
        """
        positions = wanted.now if isinstance(wanted, Upcoming) else wanted
        if self.remote is not None:
            self._fetch_ahead(wanted)
        tensors, arrays = self._allocate(self.order.bucket(positions[0]), len(positions))
        keys: list[str] = []
        texts: dict[str, list[str | list[str]]] = defaultdict(list)
        failures: list[Failure] = []
        try:
            for slot, position in enumerate(positions):
                targets = {name: array[slot, ...] for name, array in arrays.items()}
                key, written = self._read(position, targets, failures)
                keys.append(key)
                for name, text in written.items():
                    texts[name].append(text)
        except DataError as error:
            return error
        return ReadBatch(keys, dict(texts), tensors, failures)

    def _fetch_ahead(self, wanted: Sequence[int] | Upcoming) -> None:
        """Begin to fetch what these positions, and those after them, need."""
        assert self.remote is not None
        if self._ahead is None:  # in the process that reads: threads do not come along into a fork
            self._ahead = Ahead(self._fetch, threads=self.remote.connections)
        positions = [*wanted.now, *wanted.ahead] if isinstance(wanted, Upcoming) else wanted
        self._ahead.begin(_Wanted(position, 0, self.order(position)) for position in positions)

    def close(self) -> None:
        """End what this process fetches ahead; it begins again with the next batch."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def _fetch(self, wanted: "_Wanted") -> None:
        """Fetch what `fill` will read."""
        fetch_places(self._examples.places(wanted.sample, self._generator(wanted)))

    def _generator(self, wanted: "_Wanted") -> np.random.Generator:
        return np.random.default_rng([self._seed, 1, wanted.position, wanted.attempt])

    def _allocate(
        self, bucket: int, batch_size: int
    ) -> tuple[dict[str, Tensor] | Slab, dict[str, np.ndarray]]:
        """Where the batch goes: a slab if there is a free one, else memory of its own."""
        worker = get_worker_info()
        if self.ring is not None:
            slab = self.ring.take(0 if worker is None else worker.id, batch_size, layout=bucket)
            if slab is not None:
                return slab, self.ring.arrays(slab)
        layout = self.layouts[bucket]
        block = torch.empty(layout.num_bytes(batch_size), dtype=torch.uint8).numpy()
        arrays = layout.views(block, batch_size)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}, arrays

    def _read(
        self, position: int, targets: dict[str, np.ndarray], failures: list[Failure]
    ) -> tuple[str, Texts]:
        """Fill one sample's part of the batch; returns its key and texts. DataError after many failures."""
        selection = self._examples.selection
        for attempt in range(MAX_FAILURES_IN_A_ROW):
            sample = self.order(position, ahead=attempt)
            shard, row = selection.place(sample)
            key = selection.catalog.indexes[shard].key(row)
            wanted = _Wanted(position, attempt, sample)
            try:
                if self._ahead is not None:
                    self._ahead.wait(wanted)
                texts = self._examples.fill(sample, self._generator(wanted), targets)
            except StoreError:
                raise  # another sample in its place would be another result
            except (ValueError, OSError) as error:
                failures.append(Failure(selection.catalog.shards[shard].name, key, str(error)))
            else:
                return key, texts
        last = failures[-1]
        raise DataError(
            f"{MAX_FAILURES_IN_A_ROW} samples in a row could not be read, the last being {last.key} of"
            f" {last.shard} ({last.reason}); check the disk and the shards"
        )
