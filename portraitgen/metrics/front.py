"""Which of several trials no other beats in all that is wanted of them."""

from collections.abc import Sequence

import numpy as np


def pareto_front(values: np.ndarray, higher_is_better: Sequence[bool]) -> np.ndarray:
    """bool [N]: those to which no other is at least equal by each figure and better by one.

    Of one figure these are the best ones.

    Args:
        values: float64 [N, M], figures of N trials; a trial with a NaN is never on the front.
        higher_is_better: of each figure.
    """
    gains = np.where(higher_is_better, values, -values)
    known = np.all(np.isfinite(gains), axis=1, keepdims=True)
    rows = np.where(known, gains, -np.inf)
    at_least = np.all(rows[:, None] >= rows[None], axis=-1, keepdims=True)
    better = np.any(rows[:, None] > rows[None], axis=-1, keepdims=True)
    beaten = np.any(at_least & better, axis=0, keepdims=True)[0, :, 0]
    front: np.ndarray = known[:, 0] & ~beaten
    return front
