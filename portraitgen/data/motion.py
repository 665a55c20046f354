"""Motion frames: what came before a window, picked from a long past."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from portraitgen.data.sample import DataError
from portraitgen.media.segments import TemporalSegments

BEFORE_START = ("absent", "first", "exclude")


class History(NamedTuple):
    """Motion frames of one window, oldest first: `frames` int64 [M], -1 where `found` bool [M] is False."""

    frames: np.ndarray
    found: np.ndarray


@dataclass(frozen=True, kw_only=True)
class MotionFrames:
    """Frames from before the window, as Loopy's temporal segment module takes them: 20 of 124.

    They lie in the same run of valid frames as the window, as far apart as its stride says, and may reach
    before the span of the data module (as a "first" reference may).

    Args:
        per_segment, ratio, segments, pick: see TemporalSegments. "mean" needs features of the frames, such as
            latents, and no pictures of the motion: pictures are not averaged.
        before_start: what a window has whose run of valid frames begins less than that before it. The paper
            does not say; it only hides all motion features of a sample with a probability of 0.4. "absent":
            `motion_found` is False, and pictures, landmarks and features are 0, for the system to hide (the
            first clip that is generated has no past either); "first": the run's first frame stands in;
            "exclude": such windows are not taken, nor clips that are too short.

    Raises:
        DataError: another `before_start`. ValueError: as TemporalSegments.
    """

    per_segment: int = 4
    ratio: int = 2
    segments: int = 5
    pick: str = "uniform"
    before_start: str = "absent"
    past: TemporalSegments = field(init=False)

    def __post_init__(self) -> None:
        if self.before_start not in BEFORE_START:
            raise DataError(
                f"data.examples.motion.before_start={self.before_start}: give one of"
                f" {', '.join(BEFORE_START)}"
            )
        segments = TemporalSegments(
            per_segment=self.per_segment, ratio=self.ratio, segments=self.segments, pick=self.pick
        )
        object.__setattr__(self, "past", segments)

    def lead(self, stride: int) -> int:
        """Frames of its run that a window must have before it."""
        return self.past.length * stride if self.before_start == "exclude" else 0

    def before(self, first: int, *, stride: int, run_start: int, rng: np.random.Generator) -> History:
        """Motion frames of a window that begins with frame `first` of a run that begins with `run_start`."""
        frames = (first - stride * (self.past.picks(rng) + 1))[::-1]
        found = frames >= run_start
        if self.before_start == "first":
            return History(np.maximum(frames, run_start), np.ones_like(found))
        return History(np.where(found, frames, -1), found)

    def ranges_before(self, first: int, *, stride: int, run_start: int) -> list[np.ndarray]:
        """Of each motion frame, oldest first, the frames that "mean" takes the mean of; there may be none."""
        taken = [first - stride * (np.arange(start, end) + 1) for start, end in self.past.ranges[::-1]]
        if self.before_start == "first":
            return [np.maximum(frames, run_start) for frames in taken]
        return [frames[frames >= run_start] for frames in taken]
