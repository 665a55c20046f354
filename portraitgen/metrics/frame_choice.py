"""Which frames of a video are graded, where a figure is taken of some of them only."""

import numpy as np

NUM_FRAMES = 16
"""Frames of a video that identity, CLIP score and FVD look at in most papers."""


def spread_frames(total: int, count: int = NUM_FRAMES) -> np.ndarray:
    """`count` indices from the first to the last of `total` frames; short videos repeat frames.

    ConsisID's sampler of faces.

    Returns:
        int64 [count].

    Raises:
        ValueError: no frames.
    """
    return np.linspace(0, _some(total) - 1, count, dtype=np.int64)


def distinct_frames(total: int, count: int = NUM_FRAMES) -> np.ndarray:
    """`spread_frames`, each once: samples of a set, in which a frame that comes again is none.

    Returns:
        int64 [min(count, total)].

    Raises:
        ValueError: no frames.
    """
    return np.unique(spread_frames(total, min(count, total)))


def strided_frames(total: int, count: int = NUM_FRAMES) -> np.ndarray:
    """`count` indices ⌊i · total / count⌋; the last frames are never taken, short videos repeat frames.

    ConsisID's sampler for CLIP scores, which is not its sampler of faces.

    Returns:
        int64 [count].

    Raises:
        ValueError: no frames.
    """
    return np.arange(count) * _some(total) // count


def _some(total: int) -> int:
    if total < 1:
        raise ValueError("cannot choose frames of a video without frames")
    return total
