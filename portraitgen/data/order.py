"""Orders in which samples are seen: functions of the position and the seed, and of nothing else."""

import numpy as np


class SampleOrder:
    """Shuffles N samples anew in each pass over them; position p stands in pass p // N.

    Shards are shuffled, taken in blocks of `block_shards`, and the samples within a block are shuffled: every
    order of shards can occur, while a reader has only that many shards open at a time.

    Args:
        shards: int [N], the shard of each sample, ascending.
        seed: of the run.
        block_shards: shards mixed with each other.
    """

    def __init__(self, shards: np.ndarray, *, seed: int, block_shards: int = 16) -> None:
        self._seed = seed
        self._block_shards = block_shards
        self._samples_of = np.split(np.arange(len(shards)), np.flatnonzero(np.diff(shards)) + 1)
        self._num_samples = len(shards)
        self._passes: dict[int, np.ndarray] = {}

    def __call__(self, position: int) -> int:
        """The sample, 0 <= sample < N, at any position >= 0."""
        number, place = divmod(position, self._num_samples)
        if number not in self._passes:
            # A batch can lie across a border, and workers are at most a few batches apart.
            for old in [known for known in self._passes if known < number - 1]:
                del self._passes[old]
            self._passes[number] = self._shuffled(number)
        return int(self._passes[number][place])

    def _shuffled(self, number: int) -> np.ndarray:
        rng = np.random.default_rng([self._seed, 0, number])
        shards = rng.permutation(len(self._samples_of))
        blocks = [
            np.concatenate([self._samples_of[shard] for shard in shards[start : start + self._block_shards]])
            for start in range(0, len(shards), self._block_shards)
        ]
        return np.concatenate([rng.permutation(block) for block in blocks])


class EvenSpread:
    """Positions spread evenly over N samples in their order; samples come again if there are fewer."""

    def __init__(self, num_samples: int, num_positions: int) -> None:
        self._num_samples = num_samples
        self._num_positions = num_positions

    def __call__(self, position: int) -> int:
        """The sample, 0 <= sample < N, at any position >= 0."""
        if self._num_positions >= self._num_samples:
            return position % self._num_samples
        return position * self._num_samples // self._num_positions % self._num_samples
