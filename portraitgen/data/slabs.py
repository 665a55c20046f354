"""Shared memory that batches cross in, used again and again.

Fresh shared memory costs a page fault for every 4 KiB, in the worker and again in the trainer: about one CPU
millisecond a megabyte, as much as decoding. Slabs are mapped once, before the workers are forked, and each
goes back to its worker when the last tensor on it is gone. Their memory is anonymous, so the small /dev/shm
of a container does not limit it.
"""

import itertools
import mmap
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from portraitgen.data.batch import BatchLayout

_rings: weakref.WeakValueDictionary[int, "SlabRing"] = weakref.WeakValueDictionary()
_tokens = itertools.count()


class SlabRing:
    """`num_workers * slabs_per_worker` slabs of one batch each, which may be of any of the layouts.

    A worker takes slabs of its own share only, the trainer only gives them back, so one shared byte a slab is
    all the bookkeeping that is needed. Make it before the workers are forked.
    """

    def __init__(
        self,
        layouts: Sequence[BatchLayout],
        batch_size: int,
        *,
        num_workers: int,
        slabs_per_worker: int,
    ) -> None:
        self._layouts = layouts
        self._slabs_per_worker = slabs_per_worker
        largest = max(layout.num_bytes(batch_size) for layout in layouts)
        self._stride = -(-largest // mmap.PAGESIZE) * mmap.PAGESIZE
        count = num_workers * slabs_per_worker
        self._memory = memoryview(mmap.mmap(-1, count * self._stride))
        self._taken = np.frombuffer(mmap.mmap(-1, count), np.uint8)
        self._token = next(_tokens)
        _rings[self._token] = self

    def take(self, worker: int, batch_size: int, *, layout: int = 0) -> "Slab | None":
        """In a worker: a free slab of its share, or None while the trainer still holds all of them."""
        first = worker * self._slabs_per_worker
        free = np.flatnonzero(self._taken[first : first + self._slabs_per_worker] == 0)
        if not len(free):
            return None
        number = first + int(free[0])
        self._taken[number] = 1
        return Slab(self._token, number, batch_size, layout)

    def arrays(self, slab: "Slab") -> dict[str, np.ndarray]:
        """In a worker: the batch's arrays on a slab, to be written."""
        return self._layouts[slab.layout].views(self._block(slab.number), slab.batch_size)

    def tensors(self, slab: "Slab") -> dict[str, Tensor]:
        """In the trainer: the batch on a slab, which is free again when the last tensor on it is gone."""
        block = self._block(slab.number)
        # Every view and every tensor made of it keeps `block` alive.
        weakref.finalize(block, self._give_back, slab.number).atexit = False
        return {
            name: torch.from_numpy(array)
            for name, array in self._layouts[slab.layout].views(block, slab.batch_size).items()
        }

    def _block(self, number: int) -> np.ndarray:
        return np.frombuffer(self._memory, np.uint8, count=self._stride, offset=number * self._stride)

    def _give_back(self, number: int) -> None:
        self._taken[number] = 0


class Slab:
    """A batch on its way: pickled in a worker, it is unpickled in the trainer as that batch's tensors."""

    def __init__(self, token: int, number: int, batch_size: int, layout: int) -> None:
        self.token, self.number, self.batch_size, self.layout = token, number, batch_size, layout

    def __reduce__(self) -> tuple:
        return _received, (self.token, self.number, self.batch_size, self.layout)


def _received(token: int, number: int, batch_size: int, layout: int) -> dict[str, Tensor]:
    return _rings[token].tensors(Slab(token, number, batch_size, layout))
