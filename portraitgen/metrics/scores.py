"""The figures of one clip made by one method, frame by frame or of the whole, and what each figure means."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

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
    """What a figure is.

    Attributes:
        label: heading of its column.
        unit: what follows the number, with its space (" dB"), or nothing.
        digits: decimals shown.
        higher_is_better: direction; None for a figure whose aim is the value of the true frames.
        definition: how it is measured, exactly enough to repeat it.
        level: what has one value: each "frame", each "clip" (Sync-C), or only the whole "set" (FID).
    """

    label: str
    unit: str
    digits: int
    higher_is_better: bool | None
    definition: str
    level: Literal["frame", "clip", "set"] = "frame"

    @property
    def heading(self) -> str:
        """Label and unit, with an arrow to the better side if there is one."""
        unit = f" ({self.unit.strip()})" if self.unit else ""
        arrow = {True: " ↑", False: " ↓", None: ""}[self.higher_is_better]
        return f"{self.label}{unit}{arrow}"

    def show(self, value: float, *, unit: bool = False) -> str:
        """The value as text, a dash when it is missing."""
        if not np.isfinite(value):
            return "–"
        return f"{value:.{self.digits}f}{self.unit if unit else ''}"


class Grades(NamedTuple):
    """What a grader says of one clip, in the form in which a `Row` holds it.

    Attributes:
        scores: name of the figure -> float64 [T] for a figure of every frame, or [] for one of the clip; NaN
            where it could not be taken, which is never 0. A figure that means nothing for the method (PSNR of
            the truth) is left out.
        reasons: name of the figure -> why some or all of its values are missing.
    """

    scores: Mapping[str, np.ndarray]
    reasons: Mapping[str, str]


def missing_grades(metrics: Mapping[str, MetricInfo], num_frames: int, reason: str) -> Grades:
    """Grades of a clip of which none of these figures can be taken."""
    shapes = {name: (num_frames,) if metric.level == "frame" else () for name, metric in metrics.items()}
    return Grades(
        {name: np.full(shape, np.nan) for name, shape in shapes.items()}, dict.fromkeys(metrics, reason)
    )


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One clip made by one method, with its figures.

    Attributes:
        video: key of the clip.
        method: a key of `METHODS`.
        frames: int64 [T], the place of each frame in its video; empty only where the clip failed.
        scores: name -> float64 [T] or [], as in `Grades`.
        reasons: name -> why some or all of its values are missing.
        failure: why there is no clip to grade at all; then all its figures are missing.

    Raises:
        ValueError: an unknown method, a figure of another length, a missing value without a reason.
    """

    video: str
    method: str
    frames: np.ndarray
    scores: Mapping[str, np.ndarray]
    reasons: Mapping[str, str] = field(default_factory=dict)
    failure: str | None = None

    def __post_init__(self) -> None:
        place = f"row {self.video}/{self.method}"
        if self.method not in METHODS:
            raise ValueError(f"{place}: unknown method; known are {', '.join(METHODS)}")
        if self.failure is None and not len(self.frames):
            raise ValueError(f"{place}: no frames")
        if self.failure is not None and self.scores:
            raise ValueError(f"{place}: it failed ({self.failure}) and yet has figures")
        for name, values in self.scores.items():
            if values.shape not in ((), self.frames.shape):
                raise ValueError(f"{place}: {len(values)} values of {name} for {len(self.frames)} frames")
            if np.isnan(values).any() and name not in self.reasons:
                raise ValueError(f"{place}: {name} is missing in some frames, and no reason is given")

    def values(self, metric: MetricInfo, name: str) -> np.ndarray:
        """Values of a figure of the frames or the clip, float64 [T] or [1]; NaN where they are missing."""
        count = len(self.frames) if metric.level == "frame" else 1
        return np.atleast_1d(self.scores.get(name, np.full(count, np.nan)))

    def mean(self, name: str) -> float:
        """Mean over the frames that have this figure, or the clip's value; NaN when there is none."""
        values = np.atleast_1d(self.scores.get(name, np.empty(0)))
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else float("nan")

    def why_missing(self, name: str) -> str | None:
        """Why values of a figure are missing, or None."""
        return self.failure or self.reasons.get(name)
