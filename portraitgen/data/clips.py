"""Which frames of a clip make a training example: a window of the clip and a reference frame."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from portraitgen.data.index import ShardIndex
from portraitgen.data.sample import DataError

REFERENCES = ("random", "first", "neutral")


class Window(NamedTuple):
    """Frames chosen from one clip: `frames` int64 [clip_frames] and `reference` of person `track`."""

    track: int
    frames: np.ndarray
    reference: int


@dataclass(frozen=True, slots=True)
class ClipWindows:
    """Chooses windows of `clip_frames` frames, `stride` apart, that lie in one run of valid frames.

    Attributes:
        clip_frames: frames in a window, 1 for single pictures.
        stride: distance between them.
        span: share of each clip that may be used, such as (0, 0.75) for training and (0.75, 1) for grading;
            spans that share a border share no frame.
        snap_keyframes: start windows (and take random references) at keyframes where there is one to choose.
            It makes decoding 1.3 to 3 times cheaper, but is a choice about the data: with GOP 12 only every
            twelfth offset, and of single pictures only every twelfth frame, is ever seen.
        reference: "random", another valid frame of the span, outside the window if possible; "first", the
            first frame of the clip that shows the person, wherever the span lies; or "neutral", of all such
            frames the one with the most closed mouth.
    """

    clip_frames: int
    stride: int = 1
    span: tuple[float, float] = (0.0, 1.0)
    snap_keyframes: bool = True
    reference: str = "random"

    def __post_init__(self) -> None:
        if self.clip_frames < 1 or self.stride < 1:
            raise DataError(f"clip_frames ({self.clip_frames}) and stride ({self.stride}) must be at least 1")
        if not 0 <= self.span[0] < self.span[1] <= 1:
            raise DataError(f"span {self.span} must be a range within [0, 1], such as [0, 0.75]")
        if self.reference not in REFERENCES:
            raise DataError(f"reference {self.reference!r} is not one of {', '.join(REFERENCES)}")

    @property
    def reach(self) -> int:
        """Frames from the first to the last of a window, both counted."""
        return (self.clip_frames - 1) * self.stride + 1

    def longest_runs(self, index: ShardIndex) -> np.ndarray:
        """Longest run of valid frames within the span, for each sample of a shard: int64 [S]; 0 for none.

        A sample has a window if this is at least `reach`.
        """
        owner = np.repeat(np.arange(len(index)), np.diff(index.run_splits))
        low, high = self._bounds(index.num_frames[owner])
        lengths = np.minimum(index.runs[:, 2], high) - np.maximum(index.runs[:, 1], low)
        longest = np.zeros(len(index), np.int64)
        np.maximum.at(longest, owner, lengths)
        return longest

    def choose(
        self, num_frames: int, runs: np.ndarray, keyframes: np.ndarray, rng: np.random.Generator
    ) -> Window:
        """Draw one window, all starts being equally likely.

        Args:
            num_frames: T of the clip.
            runs: int [R, 3] track, start, end of its runs of valid frames.
            keyframes: bool [T].
            rng: two draws are taken from it.

        Raises:
            DataError: the clip has no window.
        """
        low, high = (int(bound) for bound in self._bounds(np.array(num_frames)))
        usable = [
            (track, np.arange(max(start, low), min(end, high)))
            for track, start, end in runs.tolist()
            if min(end, high) - max(start, low) >= self.reach
        ]
        if not usable:
            raise DataError(
                f"has no {self.reach} valid frames in a row within {self.span} of its {num_frames}"
            )
        starts = np.concatenate([frames[: len(frames) - self.reach + 1] for _, frames in usable])
        tracks = np.concatenate([np.full(len(frames) - self.reach + 1, track) for track, frames in usable])
        picked = rng.choice(self._snapped(np.arange(len(starts)), keyframes[starts]))
        track = int(tracks[picked])
        window = starts[picked] + self.stride * np.arange(self.clip_frames)
        own = runs[runs[:, 0] == track]
        if self.reference != "random":  # who reads the landmarks looks for the neutral one
            return Window(track, window, int(own[:, 1].min()))
        valid = np.concatenate([np.arange(max(start, low), min(end, high)) for _, start, end in own.tolist()])
        others = np.setdiff1d(valid, window, assume_unique=True)
        others = others if len(others) else valid
        return Window(track, window, int(rng.choice(self._snapped(others, keyframes[others]))))

    def _bounds(self, num_frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First frame of the span and the one after its last, rounded alike, so that spans tile a clip."""
        return np.rint(self.span[0] * num_frames).astype(int), np.rint(self.span[1] * num_frames).astype(int)

    def _snapped(self, candidates: np.ndarray, at_keyframe: np.ndarray) -> np.ndarray:
        return candidates[at_keyframe] if self.snap_keyframes and at_keyframe.any() else candidates
