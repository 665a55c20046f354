"""One figure of one method over all its videos: the mean, its interval, and what is missing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from portraitgen.metrics.bootstrap import Resampling, percentile_interval
from portraitgen.metrics.grader import SetFigure
from portraitgen.metrics.scores import MetricInfo, Row


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A figure of one method over all videos.

    Attributes:
        mean: mean over videos of each video's value; of a set, its one value; NaN when nothing has it.
        interval: lower and upper bound of the mean; NaN where a single unit leaves nothing to resample.
        resampled: float64 [R], the mean of each resample, for differences between methods.
        units: what is counted: "frames", "videos", or "samples" of a set.
        num_present: those that have the figure.
        num_missing: those that should have it and do not.
        reasons: why, as "video: reason".
    """

    mean: float
    interval: tuple[float, float]
    resampled: np.ndarray
    units: str
    num_present: int
    num_missing: int
    reasons: tuple[str, ...]


def estimate(rows: Sequence[Row], name: str, metric: MetricInfo, resampling: Resampling) -> Estimate:
    """Estimate a figure from the rows of one method, one for each video, in the order of `resampling`.

    The units that are resampled are the means of several videos, or the frames of the only one.
    """
    values = [row.values(metric, name) for row in rows]
    units = np.array([row.mean(name) for row in rows]) if len(rows) > 1 else values[0]
    resampled = resampling.means(units)
    num_present = sum(int(np.isfinite(value).sum()) for value in values)
    reasons = [(row.video, row.why_missing(name)) for row in rows]
    return Estimate(
        mean=float(units[np.isfinite(units)].mean()) if num_present else math.nan,
        interval=percentile_interval(resampled),
        resampled=resampled,
        units="frames" if metric.level == "frame" else "videos",
        num_present=num_present,
        num_missing=sum(map(len, values)) - num_present,
        reasons=tuple(f"{video}: {reason}" for video, reason in reasons if reason is not None),
    )


def estimate_of_set(figure: SetFigure, resampling: Resampling) -> Estimate:
    """A figure of a whole set: one value, which has no interval."""
    return Estimate(
        mean=figure.value,
        interval=(math.nan, math.nan),
        resampled=np.full(len(resampling.choices), np.nan),
        units="samples",
        num_present=figure.num_samples,
        num_missing=figure.num_missing,
        reasons=() if figure.reason is None else (f"all videos: {figure.reason}",),
    )
