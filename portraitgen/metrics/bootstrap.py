"""Intervals by resampling: how far a mean would move if other videos, or other frames, had been graded."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

CONFIDENCE = 0.95
FEW_VIDEOS = 10
"""Below this many videos a bootstrap over them is known to give intervals that are too narrow."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """The units drawn, once for all figures and methods.

    Attributes:
        choices: int64 [R, N], the units of each of R resamples.
        statement: what was resampled, for the protocol.
        units: what is drawn: whole "videos", or the "frames" of the only one.
    """

    choices: np.ndarray
    statement: str
    units: Literal["videos", "frames"]

    def means(self, units: np.ndarray) -> np.ndarray:
        """Mean of each resample over its units that are not NaN: float64 [R].

        NaN where all units of a resample are missing, and everywhere when fewer than two have a value.
        """
        if np.isfinite(units).sum() < 2:
            return np.full(len(self.choices), np.nan)
        drawn = units[self.choices]
        present = np.isfinite(drawn)
        counts = present.sum(axis=1)
        sums = np.where(present, drawn, 0.0).sum(axis=1)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def resample_videos(num_videos: int, *, resamples: int, seed: int) -> Resampling:
    """Whole videos drawn with replacement (the frames of one video are not independent)."""
    choices = np.random.default_rng(seed).integers(num_videos, size=(resamples, num_videos))
    statement = f"{CONFIDENCE:.0%} percentile bootstrap over {num_videos} videos, {resamples} resamples"
    if num_videos < FEW_VIDEOS:
        statement += "; too narrow, as the videos are few"
    return Resampling(choices, statement, "videos")


def resample_frames(num_frames: int, *, resamples: int, seed: int) -> Resampling:
    """Frames of a single video drawn in runs of √T neighbours, as a frame is much like the one before it.

    Circular block bootstrap: Politis and Romano, "A circular block-resampling procedure for stationary data",
    1992.
    """
    length = math.isqrt(num_frames - 1) + 1
    blocks = math.ceil(num_frames / length)
    starts = np.random.default_rng(seed).integers(num_frames, size=(resamples, blocks, 1))
    choices = ((starts + np.arange(length)) % num_frames).reshape(resamples, -1)[:, :num_frames]
    return Resampling(
        choices,
        f"{CONFIDENCE:.0%} percentile bootstrap over the {num_frames} frames of one video in runs of "
        f"{length}, {resamples} resamples; it says nothing about other videos",
        "frames",
    )


def percentile_interval(means: np.ndarray) -> tuple[float, float]:
    """Bounds that hold the middle `CONFIDENCE` of the resampled means; NaN, NaN when all are missing."""
    means = means[np.isfinite(means)]
    if not len(means):
        return math.nan, math.nan
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
