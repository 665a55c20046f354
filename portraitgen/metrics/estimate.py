"""One figure of one method over all its videos: the mean, its interval, and what is missing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from portraitgen.metrics.bootstrap import Resampling, percentile_interval
from portraitgen.metrics.grader import SetFigure
from portraitgen.metrics.paired import PairedDifference, paired_difference
from portraitgen.metrics.scores import MetricInfo, Row


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A figure of one method over all videos.

    Attributes:
        mean: mean over videos of each video's value; of a set, its one value; NaN when nothing has it.
        interval: lower and upper bound of the mean; NaN where a single value leaves nothing to resample.
        values: float64 [N], the value of each video, or of each frame of the only one, for differences
            between methods; NaN where it is missing; empty of a set.
        units: what is counted: "frames", "videos", or "samples" of a set.
        num_present: those that have the figure.
        num_missing: those that should have it and do not.
        reasons: why, as "video: reason".
        bias: of a set, what its figure would be at least between two samples of one distribution; else None.
    """

    mean: float
    interval: tuple[float, float]
    values: np.ndarray
    units: str
    num_present: int
    num_missing: int
    reasons: tuple[str, ...]
    bias: float | None = None


def estimate(rows: Sequence[Row], name: str, metric: MetricInfo, resampling: Resampling) -> Estimate:
    """Estimate a figure from the rows of one method, one for each video, in the order of `resampling`.

    The units that are resampled are the means of several videos, or the frames of the only one.
    """
    values = [row.values(metric, name) for row in rows]
    units = np.array([row.mean(name) for row in rows]) if len(rows) > 1 else values[0]
    num_present = sum(int(np.isfinite(value).sum()) for value in values)
    reasons = [(row.video, row.why_missing(name)) for row in rows]
    return Estimate(
        mean=float(units[np.isfinite(units)].mean()) if num_present else math.nan,
        interval=percentile_interval(resampling.means(units)),
        values=units,
        units="frames" if metric.level == "frame" else "videos",
        num_present=num_present,
        num_missing=sum(map(len, values)) - num_present,
        reasons=tuple(f"{video}: {reason}" for video, reason in reasons if reason is not None),
    )


def estimate_of_set(figure: SetFigure) -> Estimate:
    """A figure of a whole set: one value, which has no interval."""
    return Estimate(
        mean=figure.value,
        interval=(math.nan, math.nan),
        values=np.empty(0),
        units="samples",
        num_present=figure.num_samples,
        num_missing=figure.num_missing,
        reasons=() if figure.reason is None else (f"all videos: {figure.reason}",),
        bias=figure.bias,
    )


def difference(ours: Estimate, theirs: Estimate, resampling: Resampling) -> PairedDifference:
    """One method's figure minus another's over the videos, or frames of the only one, that both have.

    Frames of one video are no sample of videos: their difference has an interval by `resampling`, and no
    p-value.
    """
    if resampling.units == "videos":
        return paired_difference(ours.values, theirs.values)
    count = min(len(ours.values), len(theirs.values))
    values = ours.values[:count] - theirs.values[:count]
    present = values[np.isfinite(values)]
    return PairedDifference(
        mean=float(present.mean()) if len(present) else math.nan,
        interval=percentile_interval(resampling.means(values)),
        p_value=math.nan,
        num_units=len(present),
    )
