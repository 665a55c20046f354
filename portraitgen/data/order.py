"""Orders in which samples are seen: functions of the position and the seed, and of nothing else."""

from itertools import pairwise
from typing import Protocol

import numpy as np


class Order(Protocol):
    """Which sample stands at a position, and which bucket it is of."""

    def __call__(self, position: int, *, ahead: int = 0) -> int:
        """The sample at a position >= 0, or the one that comes `ahead` samples later in its bucket."""
        ...

    def bucket(self, position: int) -> int:
        """Of the sample there. All positions of a batch have the same."""
        ...


class SampleOrder:
    """Shuffles N samples anew in each pass over them; position p stands in pass p // N.

    Shards are shuffled, taken in blocks of `block_shards`, and the samples within a block are shuffled: every
    order of shards can occur, while a reader has only that many shards open at a time.

    Args:
        shards: int [N], the shard of each sample, ascending.
        seed: of the run.
        block_shards: shards mixed with each other.
        stream: number of the order among those of one seed.
    """

    def __init__(self, shards: np.ndarray, *, seed: int, block_shards: int = 16, stream: int = 0) -> None:
        self._prefix = [seed, 3, stream] if stream else [seed, 0]
        self._block_shards = block_shards
        self._samples_of = np.split(np.arange(len(shards)), np.flatnonzero(np.diff(shards)) + 1)
        self._num_samples = len(shards)
        self._passes: dict[int, np.ndarray] = {}

    def __call__(self, position: int, *, ahead: int = 0) -> int:
        """The sample, 0 <= sample < N, at any position >= 0."""
        number, place = divmod(position + ahead, self._num_samples)
        if number not in self._passes:
            # A batch can lie across a border, and workers are at most a few batches apart.
            for old in [known for known in self._passes if known < number - 1]:
                del self._passes[old]
            self._passes[number] = self._shuffled(number)
        return int(self._passes[number][place])

    def bucket(self, position: int) -> int:
        """There is one."""
        return 0

    def _shuffled(self, number: int) -> np.ndarray:
        rng = np.random.default_rng([*self._prefix, number])
        shards = rng.permutation(len(self._samples_of))
        blocks = [
            np.concatenate([self._samples_of[shard] for shard in shards[start : start + self._block_shards]])
            for start in range(0, len(shards), self._block_shards)
        ]
        return np.concatenate([rng.permutation(block) for block in blocks])


class BucketOrder:
    """Shuffles the samples of each bucket by themselves, and the buckets of the batches.

    Which bucket a batch is of depends on the seed and its number alone, and so do its samples, by the size of
    the batch: positions b * batch_size and on are those of batch b, of all ranks together.

    Nothing is dropped and no sample is seen more often than another: of the first N batches, and of every N
    that follow, n are of a bucket with n samples: each of its samples is seen `batch_size` times. What
    does not fill a batch at the end of a pass over a bucket is filled up from the next pass. In a bucket with
    fewer samples than a batch, a batch holds some of them more than once.

    Args:
        shards: int [N], the shard of each sample, ascending.
        buckets: int [N].
        seed: of the run.
        batch_size: samples of a batch over all ranks.
    """

    def __init__(self, shards: np.ndarray, buckets: np.ndarray, *, seed: int, batch_size: int) -> None:
        self._seed, self._batch_size = seed, batch_size
        self._names, counts = np.unique(buckets, return_counts=True)
        self._samples_of = [np.flatnonzero(buckets == name) for name in self._names]
        self._orders = [
            SampleOrder(shards[samples], seed=seed, stream=int(name))
            for name, samples in zip(self._names, self._samples_of, strict=True)
        ]
        self._counts = counts // np.gcd.reduce(counts)
        self._rounds: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, position: int, *, ahead: int = 0) -> int:
        """The sample, 0 <= sample < N, at any position >= 0."""
        number, slot = divmod(position, self._batch_size)
        which, earlier = self._batch(number)
        return int(self._samples_of[which][self._orders[which](earlier * self._batch_size + slot + ahead)])

    def bucket(self, position: int) -> int:
        """Bucket of the batch that a position is in."""
        return int(self._names[self._batch(position // self._batch_size)[0]])

    def _batch(self, number: int) -> tuple[int, int]:
        """Which of the buckets a batch is of, and how many batches of it there are before."""
        length = int(self._counts.sum())
        turn, place = divmod(number, length)
        if turn not in self._rounds:
            for old in [known for known in self._rounds if known < turn - 1]:
                del self._rounds[old]
            # A round has as many batches of each bucket as it has samples, less common factors.
            which = np.random.default_rng([self._seed, 2, turn]).permutation(
                np.repeat(np.arange(len(self._counts)), self._counts)
            )
            by_bucket = np.argsort(which, kind="stable")
            ranks = np.empty(length, np.int64)
            ranks[by_bucket] = np.concatenate([np.arange(count) for count in self._counts])
            self._rounds[turn] = which, ranks
        which, ranks = self._rounds[turn]
        chosen = int(which[place])
        return chosen, turn * int(self._counts[chosen]) + int(ranks[place])


class EvenSpread:
    """Positions spread evenly over N samples in their order; samples come again if there are fewer."""

    def __init__(self, num_samples: int, num_positions: int) -> None:
        self._num_samples = num_samples
        self._num_positions = num_positions

    def __call__(self, position: int, *, ahead: int = 0) -> int:
        """The sample, 0 <= sample < N, at any position >= 0."""
        position += ahead
        if self._num_positions >= self._num_samples:
            return position % self._num_samples
        return position * self._num_samples // self._num_positions % self._num_samples

    def bucket(self, position: int) -> int:
        """There is one."""
        return 0

    def groups(self) -> list[range]:
        """Positions that may share a batch: all of them."""
        return [range(self._num_positions)]


class BucketSpread:
    """Positions spread evenly over N samples, ordered by bucket."""

    def __init__(self, buckets: np.ndarray, num_positions: int) -> None:
        spread = EvenSpread(len(buckets), num_positions)
        samples = np.array([spread(position) for position in range(num_positions)])
        self._samples = samples[np.argsort(buckets[samples], kind="stable")]
        self._buckets = buckets[self._samples]

    def __call__(self, position: int, *, ahead: int = 0) -> int:
        """The sample, 0 <= sample < N, at a position; after the last of a bucket comes its first."""
        first, last = np.searchsorted(self._buckets, self._buckets[position] + np.array([0, 1])).tolist()
        return int(self._samples[first + (position - first + ahead) % (last - first)])

    def bucket(self, position: int) -> int:
        """Of the sample there."""
        return int(self._buckets[position])

    def groups(self) -> list[range]:
        """Positions of each bucket."""
        borders = [0, *(np.flatnonzero(np.diff(self._buckets)) + 1).tolist(), len(self._buckets)]
        return [range(first, last) for first, last in pairwise(borders)]
