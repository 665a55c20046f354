"""Loaders over positions: the endless training stream that resumes exactly, and the fixed list for grading.

Both are plain iterables that hold a DataLoader, not DataLoaders: Lightning would rebuild one of those with a
sampler of its own under DDP. Ranks are told apart here, by numbers given when the loader is built.
"""

import gc
import itertools
import logging
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from portraitgen.data.examples import ExamplesByPosition, Failure
from portraitgen.data.remote.ahead import Upcoming, with_upcoming
from portraitgen.data.sample import DataError
from portraitgen.data.slabs import Slab, SlabRing

log = logging.getLogger(__name__)

Batch = dict[str, Tensor | list[str] | list[str | list[str]]]

_PREFETCH_FACTOR = 2
# Beside those prefetched, the trainer holds the batch that it works on and the one that it just left.
_SLABS_PER_WORKER = _PREFETCH_FACTOR + 2

# What is garbage in this process may belong to threads, which workers that are forked do not have: freeing an
# inherited frame of FFmpeg's there waits for its scaler's threads without end.
os.register_at_fork(after_in_child=gc.freeze)


class _BatchReader:
    """Reads batches of given positions, in this process or in workers that run ahead of it."""

    def __init__(
        self, examples: ExamplesByPosition, *, batch_size: int, num_workers: int, pin_memory: bool
    ) -> None:
        self._examples = examples
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self.failures: Counter[str] = Counter()

    def read(self, positions: Iterable[list[int]]) -> Generator[Batch, None, None]:
        """Batches in the order of `positions`; DataError when too many samples cannot be read."""
        ring = SlabRing(
            self._examples.layouts,
            self._batch_size,
            num_workers=max(self._num_workers, 1),
            slabs_per_worker=_SLABS_PER_WORKER,
        )
        self._examples.ring = ring
        batches: Iterable[list[int]] | Iterator[Upcoming] = positions
        if (remote := self._examples.remote) is not None:
            batches = with_upcoming(positions, readers=max(self._num_workers, 1), samples=remote.ahead)
        # Slabs are inherited, so workers must be forked. OpenCV's threads do not survive that.
        ahead = {
            "prefetch_factor": _PREFETCH_FACTOR,
            "multiprocessing_context": "fork",
            "worker_init_fn": _without_threads,
        }
        loader: DataLoader[Any] = DataLoader(
            self._examples,  # type: ignore[arg-type]
            batch_sampler=batches,  # type: ignore[arg-type]
            num_workers=self._num_workers,
            collate_fn=_as_read,
            pin_memory=self._pin_memory,
            # Nothing here is drawn from torch; without this the DataLoader would move the global generator.
            generator=torch.Generator(),
            **(ahead if self._num_workers else {}),  # type: ignore[arg-type]
        )
        try:
            for result in loader:
                if isinstance(result, DataError):
                    raise result
                keys, texts, tensors, failures = result
                self._report(failures)
                # From a worker a slab arrives as its tensors.
                read = ring.tensors(tensors) if isinstance(tensors, Slab) else tensors
                yield {"key": keys, **texts, **read, **self._examples.constants}
        finally:
            self._examples.close()

    def _report(self, failures: list[Failure]) -> None:
        for failure in failures:
            name = f"{failure.shard}:{failure.key}"
            if name not in self.failures:
                log.warning(f"sample {name} cannot be read and is replaced by the next: {failure.reason}")
            self.failures[name] += 1


def _without_threads(worker: int) -> None:
    cv2.setNumThreads(0)


def _as_read(result: Any) -> Any:
    return result


class ResumableLoader:
    """Batches of the endless training stream; `batches_per_epoch` of them are called an epoch.

    A batch is a function of the seed, its number, the rank and the world size: the same for any number of
    workers; and two ranks see together what one sees with twice the batch size, with buckets of sizes too.
    `iter` goes on where the stream stands, also after a loop that was left early, so that going on and
    resuming are the same. The state counts the batches handed out, not those that workers have read ahead.

    Args:
        examples: samples by position, in a SampleOrder.
        batch_size: of this rank.
        batches_per_epoch: what `len` gives.
        num_workers: 0 reads in this process.
        rank, world_size: which share of each global batch is this loader's.
        pin_memory: copy batches into pinned memory, for the transfer to a GPU.
    """

    def __init__(
        self,
        examples: ExamplesByPosition,
        *,
        batch_size: int,
        batches_per_epoch: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self._reader = _BatchReader(
            examples, batch_size=batch_size, num_workers=num_workers, pin_memory=pin_memory
        )
        self._batch_size = batch_size
        self._batches_per_epoch = batches_per_epoch
        self._rank, self._global_batch = rank, batch_size * world_size
        self._ordered_in_batches = len(examples.layouts) > 1
        self._epoch = self._batches = 0
        self._position = 0  # of the next sample, over all ranks
        self._stream: Generator[Batch, None, None] | None = None

    @property
    def failures(self) -> Counter[str]:
        """How often each broken sample, as SHARD:KEY, was met."""
        return self._reader.failures

    def __len__(self) -> int:
        return self._batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the epoch; the next epoch when it has no rest."""
        if self._batches == self._batches_per_epoch:
            self._epoch, self._batches = self._epoch + 1, 0
        while self._batches < self._batches_per_epoch:
            if self._stream is None:
                self._stream = self._reader.read(self._positions())
            batch = next(self._stream)
            self._batches += 1
            self._position += self._global_batch
            yield batch

    def _positions(self) -> Iterator[list[int]]:
        """Positions of this rank's batches from where the stream stands, without end."""
        for first in itertools.count(self._position + self._rank * self._batch_size, self._global_batch):
            yield list(range(first, first + self._batch_size))

    def state_dict(self) -> dict[str, int]:
        """The epoch, from 0, how many of its batches were handed out, of how many samples they are, and the
        samples of all batches so far."""
        return {
            "epoch": self._epoch,
            "batches": self._batches,
            "samples": self._global_batch,
            "position": self._position,
        }

    def recounted(self, state: Mapping[str, int], *, multiple_of: int = 1) -> dict[str, int]:
        """A `state_dict` of a loader with other batches or epochs, as one of this loader.

        It stands at the same sample; its epoch and batches are as many as come nearest from above.

        Args:
            state: the other's.
            multiple_of: number of batches that belong together.

        Raises:
            DataError: the order of samples depends on the size of the batches (buckets of sizes).
        """
        position = self._position_of(state)
        if self._ordered_in_batches and state.get("samples", self._global_batch) != self._global_batch:
            raise DataError(
                f"the run was started with batches of {state['samples']} samples over all devices, they would"
                f" now be of {self._global_batch}: with buckets of sizes (data.examples.buckets) the order of"
                " the samples depends on that. Keep data.batch_size × devices × nodes"
            )
        batches = max(-(-position // (self._global_batch * multiple_of)), 1) * multiple_of
        epoch, behind = divmod(batches - 1, self._batches_per_epoch)
        return {"epoch": epoch, "batches": behind + 1, "samples": self._global_batch, "position": position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a `state_dict`. DataError if it is of a loader with other batches or longer epochs."""
        if state.get("samples", self._global_batch) != self._global_batch:
            raise DataError(
                f"the run was started with batches of {state['samples']} samples over all devices, they would"
                f" now be of {self._global_batch}: keep data.batch_size × devices × nodes, or go on with"
                " allow_config_change=true, which leaves out no sample"
            )
        if not 0 <= state["batches"] <= self._batches_per_epoch:
            raise DataError(
                f"the checkpoint stands at batch {state['batches']} of an epoch, but epochs have now"
                f" {self._batches_per_epoch}: keep the data settings of the run that is resumed"
            )
        self.close()
        self._epoch, self._batches = state["epoch"], state["batches"]
        self._position = self._position_of(state)

    def _position_of(self, state: Mapping[str, int]) -> int:
        batches = state["epoch"] * self._batches_per_epoch + state["batches"]
        # States did not always have it: those were of the batches that the loader has now.
        return state.get("position", batches * self._global_batch)

    def close(self) -> None:
        """End the workers; the stream stands where it stood and starts them again when it is needed."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class FixedLoader:
    """The same samples in the same order each time, for validation and samples.

    Ranks get every `world_size`-th sample, equally many each: the first samples are repeated where the number
    does not divide, so gather results by `position` (int64 [B]), which batches have beside. With
    buckets of sizes this holds for each of them.

    Args:
        examples: samples by position, in a fixed order.
        groups: the positions that are read; a batch is of one group.
        batch_size, num_workers, rank, world_size, pin_memory: as for ResumableLoader; the last batch of a
            group may be smaller.
    """

    def __init__(
        self,
        examples: ExamplesByPosition,
        *,
        groups: Sequence[range],
        batch_size: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self._reader = _BatchReader(
            examples, batch_size=batch_size, num_workers=num_workers, pin_memory=pin_memory
        )
        self._batches: list[list[int]] = []
        for group in groups:
            share = -(-len(group) // world_size)
            positions = [group[(rank + world_size * i) % len(group)] for i in range(share)]
            self._batches += [positions[i : i + batch_size] for i in range(0, share, batch_size)]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for positions, batch in zip(self._batches, self._reader.read(iter(self._batches)), strict=True):
            yield {**batch, "position": torch.tensor(positions)}
