"""Differences between two methods over the videos that both have: interval, p-value, and many at once.

Two equal methods may change their labels in every video, so that each difference is as likely with the other
sign: Fisher's sign-flip test ("The Design of Experiments", 1935, §21). It holds at its level at every number
of videos, of whatever distribution. The interval is that test turned round: between which of the means of
subsets of the videos lies the difference (Hartigan, "Using subsample values as typical values", 1969).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

LEVEL = 0.05
"""Share of wrong verdicts among all comparisons of equal methods, however many figures they have."""
EXACT = 14
"""Up to so many videos all their subsets are looked at, beyond it `DRAWN` of them."""
DRAWN = 20_000
_CHUNK = 2_000


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """What one method has more than another, over the units (videos) that have the figure in both.

    Attributes:
        mean: of the differences; NaN without a common unit.
        interval: holds the difference in 95 of 100 cases where differences are symmetric; NaN below 6 units,
            of which no interval can be that sure.
        p_value: chance of a mean at least as far from 0 where both methods are equal; NaN without a unit.
        num_units: the common ones.
    """

    mean: float
    interval: tuple[float, float]
    p_value: float
    num_units: int

    @property
    def least_p_value(self) -> float:
        """What the p-value could be at best of so many units."""
        return _least_p_value(self.num_units)


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> PairedDifference:
    """The difference of two methods' values of the same units, float64 [N] each; NaN where one is missing."""
    differences = ours - theirs
    differences = differences[np.isfinite(differences)]
    count = len(differences)
    if not count:
        return PairedDifference(math.nan, (math.nan, math.nan), math.nan, 0)
    sums, sizes = _subset_sums(differences)
    total = differences.sum()
    # Equal sums differ in their last bits by the order of addition.
    tolerance = 1e-9 * np.abs(differences).sum()
    extreme = int((np.abs(2 * sums - total) >= abs(total) - tolerance).sum())
    # Of drawn subsets the observed one counts too, so that a chance is never 0 (Phipson and Smyth, 2010).
    p_value = extreme / len(sums) if count <= EXACT else (extreme + 1) / (len(sums) + 1)
    filled = sizes > 0
    means = np.sort(sums[filled] / sizes[filled])
    beyond = int(LEVEL / 2 * (len(means) + 1))
    interval = (float(means[beyond - 1]), float(means[-beyond])) if beyond else (math.nan, math.nan)
    return PairedDifference(float(total / count), interval, p_value, count)


def _least_p_value(num_units: int) -> float:
    if not num_units:
        return math.nan
    return 2.0 ** (1 - num_units) if num_units <= EXACT else 1 / (DRAWN + 1)


def _subset_sums(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and size of each subset of the values, all 2^N or `DRAWN` of them: float64 [S] each."""
    count = len(values)
    parts = (
        [_all_subsets(count)]
        if count <= EXACT
        else map(_drawn_subsets, range(DRAWN // _CHUNK), repeat(count))
    )
    chunks = [(chosen @ values, chosen.sum(axis=1, dtype=np.float64)) for chosen in parts]
    sums, sizes = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return sums, sizes


@functools.lru_cache(maxsize=2)
def _all_subsets(count: int) -> np.ndarray:
    """Which of `count` values are in each of all their subsets: uint8 [2^N, N]."""
    return (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(np.uint8)


@functools.lru_cache(maxsize=DRAWN // _CHUNK)
def _drawn_subsets(chunk: int, count: int) -> np.ndarray:
    """Which of `count` values are in each subset of a chunk, the same for all figures: uint8 [S, N]."""
    return np.random.default_rng(chunk).integers(2, size=(_CHUNK, count), dtype=np.uint8)


def holm(p_values: Sequence[float], *, level: float = LEVEL) -> list[bool]:
    """Which of many hypotheses are refused, so that one is refused wrongly in `level` of all cases at most.

    Holm, "A simple sequentially rejective multiple test procedure", 1979. NaN is never refused, and counts
    for none.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    refused = [False] * len(p_values)
    for rank, (p, place) in enumerate(order):
        if p > level / (len(order) - rank):
            break
        refused[place] = True
    return refused
