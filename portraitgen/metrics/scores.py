"""The figures of one clip made by one method, frame by frame, and what each figure means."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from portraitgen.metrics.quality import MAX_PSNR

GENERATED = "generated"
COPY_REFERENCE = "copy_reference"
COPY_NEAREST = "copy_nearest"
TRUTH = "truth"


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """How the frames came about: `label` in tables and legends, `phrase` within a sentence."""

    label: str
    phrase: str


METHODS = {
    GENERATED: MethodInfo("Generated", "the generated frames"),
    COPY_REFERENCE: MethodInfo("Copy of reference", "copying the reference frame"),
    COPY_NEAREST: MethodInfo("Copy of nearest", "copying the training frame with the nearest landmarks"),
    TRUTH: MethodInfo("Truth", "the true frames"),
}
"""Methods in the order of every table."""


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A figure taken of every frame.

    Attributes:
        label: heading of its column.
        unit: what follows the number, with its space (" dB"), or nothing.
        digits: decimals shown.
        higher_is_better: direction.
        definition: how it is measured, exactly enough to repeat it.
    """

    label: str
    unit: str
    digits: int
    higher_is_better: bool
    definition: str

    @property
    def heading(self) -> str:
        """Label and unit, with an arrow to the better side."""
        unit = f" ({self.unit.strip()})" if self.unit else ""
        return f"{self.label}{unit} {'↑' if self.higher_is_better else '↓'}"

    def show(self, value: float, *, unit: bool = False) -> str:
        """The value as text, a dash when it is missing."""
        if not np.isfinite(value):
            return "–"
        return f"{value:.{self.digits}f}{self.unit if unit else ''}"


METRICS = {
    "psnr": MetricInfo(
        "PSNR",
        " dB",
        2,
        True,
        "peak signal-to-noise ratio of each 8-bit RGB frame against the true frame (peak 255, all pixels and "
        f"channels, at most {MAX_PSNR:.0f} dB), mean over frames",
    ),
    "ssim": MetricInfo(
        "SSIM",
        "",
        3,
        True,
        "structural similarity of each 8-bit RGB frame (Gaussian window of 11 pixels, sigma 1.5, mean of the "
        "three channels), mean over frames",
    ),
    "landmark_error": MetricInfo(
        "Landmark error",
        "",
        3,
        False,
        "landmarks found again on the frame against the driving ones: mean distance over the points divided "
        "by the distance of the driving outer eye corners, mean over the frames in which a face is found",
    ),
    "detection_rate": MetricInfo(
        "Faces found",
        "",
        2,
        True,
        "share of the frames driven by a face in which the backend finds one of at least its minimum score",
    ),
}
"""Figures in the order of every table."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One clip made by one method: a figure for each of its frames.

    Attributes:
        video: key of the clip.
        method: a key of `METHODS`.
        frames: int64 [T], the place of each frame in its video.
        scores: key of `METRICS` -> float64 [T]; NaN where the figure could not be taken, which is never 0.
        reasons: key of `METRICS` -> why some or all of its values are missing.

    Raises:
        ValueError: an unknown method or figure, a figure of another length, a missing value without a reason.
    """

    video: str
    method: str
    frames: np.ndarray
    scores: Mapping[str, np.ndarray]
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        place = f"row {self.video}/{self.method}"
        if self.method not in METHODS:
            raise ValueError(f"{place}: unknown method; known are {', '.join(METHODS)}")
        if not len(self.frames):
            raise ValueError(f"{place}: no frames")
        for name, values in self.scores.items():
            if name not in METRICS:
                raise ValueError(f"{place}: unknown figure {name!r}; known are {', '.join(METRICS)}")
            if values.shape != self.frames.shape:
                raise ValueError(f"{place}: {len(values)} values of {name} for {len(self.frames)} frames")
            if np.isnan(values).any() and name not in self.reasons:
                raise ValueError(f"{place}: {name} is missing in some frames, and no reason is given")

    def mean(self, metric: str) -> float:
        """Mean over the frames that have this figure; NaN when none has."""
        values = self.scores.get(metric, np.empty(0))
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else float("nan")
