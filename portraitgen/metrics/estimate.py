"""One figure of one method over all its videos: the mean, its interval, and what is missing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from portraitgen.metrics.bootstrap import Resampling, percentile_interval
from portraitgen.metrics.scores import Row


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A figure of one method over all videos.

    Attributes:
        mean: mean over videos of each video's mean over its frames; NaN when no frame has it.
        interval: lower and upper bound of the mean; NaN where a single unit leaves nothing to resample.
        resampled: float64 [R], the mean of each resample, for differences between methods.
        num_frames: frames that have the figure.
        num_missing: frames that should have it and do not.
        reasons: why, as "video: reason".
    """

    mean: float
    interval: tuple[float, float]
    resampled: np.ndarray
    num_frames: int
    num_missing: int
    reasons: tuple[str, ...]


def estimate(rows: Sequence[Row], metric: str, resampling: Resampling) -> Estimate:
    """Estimate a figure from the rows of one method, one for each video, in the order of `resampling`.

    The units that are resampled are the means of several videos, or the frames of the only one.
    """
    missing = [np.full(len(row.frames), np.nan) for row in rows]
    values = [row.scores.get(metric, nothing) for row, nothing in zip(rows, missing, strict=True)]
    units = np.array([row.mean(metric) for row in rows]) if len(rows) > 1 else values[0]
    resampled = resampling.means(units)
    num_frames = sum(int(np.isfinite(value).sum()) for value in values)
    return Estimate(
        mean=float(units[np.isfinite(units)].mean()) if num_frames else math.nan,
        interval=percentile_interval(resampled),
        resampled=resampled,
        num_frames=num_frames,
        num_missing=sum(map(len, values)) - num_frames,
        reasons=tuple(f"{row.video}: {row.reasons[metric]}" for row in rows if metric in row.reasons),
    )
