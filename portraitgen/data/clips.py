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
    reference: int | None


@dataclass(frozen=True, slots=True)
class ClipWindows:
    """Chooses windows of `clip_frames` frames, `stride` apart, that lie in one run of valid frames.

    Attributes:
        clip_frames: frames in a window, 1 for single pictures.
        stride: distance between them. Of several, each is drawn equally often; where a run is too short for
            it, as much of the run as there is, and for the smallest of them there must be enough.
        span: share of each clip that may be used, such as (0, 0.75) for training and (0.75, 1) for grading;
            spans that share a border share no frame.
        snap_keyframes: start windows (and take random references) at keyframes where there is one to choose.
            It makes decoding 1.3 to 3 times cheaper, but is a choice about the data: with GOP 12 only every
            twelfth offset, and of single pictures only every twelfth frame, is ever seen.
        reference: "random", another valid frame of the span, outside the window if possible; "first", the
            first frame of the clip that shows the person, wherever the span lies; "neutral", of all such
            frames the one with the most closed mouth; or None for none.
        lead: frames of its run that must lie before a window, wherever the span begins.
        holes: so many frames in a row may be invalid between those of a window, which are all valid
            themselves: detectors miss some. ConsisID's miss_tolerance of 6 is 5 here.
    """

    clip_frames: int
    stride: int | tuple[int, ...] = 1
    span: tuple[float, float] = (0.0, 1.0)
    snap_keyframes: bool = True
    reference: str | None = "random"
    lead: int = 0
    holes: int = 0

    def __post_init__(self) -> None:
        if self.holes < 0 or (self.holes and (self.lead or len(self.strides) > 1)):
            raise DataError(
                f"holes ({self.holes}) must be at least 0, and go with one stride and without motion frames"
            )
        if self.clip_frames < 1 or min(self.strides, default=0) < 1:
            raise DataError(f"clip_frames ({self.clip_frames}) and stride ({self.stride}) must be at least 1")
        if not 0 <= self.span[0] < self.span[1] <= 1:
            raise DataError(f"span {self.span} must be a range within [0, 1], such as [0, 0.75]")
        if self.reference not in (*REFERENCES, None):
            raise DataError(f"reference {self.reference!r} is not one of {', '.join(REFERENCES)}, nor null")

    @property
    def strides(self) -> tuple[int, ...]:
        return (self.stride,) if isinstance(self.stride, int) else self.stride

    @property
    def reach(self) -> int:
        """Frames from the first to the last of the shortest windows, both counted."""
        return (self.clip_frames - 1) * min(self.strides) + 1

    def longest_runs(self, index: ShardIndex) -> np.ndarray:
        """Longest run of valid frames within the span, for each sample of a shard: int64 [S]; 0 for none.

        A sample has a window if this is at least `reach`.
        """
        if self.holes:
            counts = index.num_frames.tolist()
            found = [self._complete(count, index.clip_runs(row)) for row, count in enumerate(counts)]
            return np.array([self.reach * bool(starts) for starts in found], np.int64)
        owner = np.repeat(np.arange(len(index)), np.diff(index.run_splits))
        low, high = self._bounds(index.num_frames[owner])
        lengths = np.minimum(index.runs[:, 2], high) - np.maximum(index.runs[:, 1] + self.lead, low)
        longest = np.zeros(len(index), np.int64)
        np.maximum.at(longest, owner, lengths)
        return longest

    def choose(
        self,
        num_frames: int,
        runs: np.ndarray,
        keyframes: np.ndarray,
        rng: np.random.Generator,
        starts: np.ndarray | None = None,
    ) -> Window:
        """Draw one window, all starts being equally likely.

        With strides 1 and 4 these are the windows of AniPortrait's training.

        Args:
            num_frames: T of the clip.
            runs: int [R, 3] track, start, end of its runs of valid frames.
            keyframes: bool [T].
            rng: two draws are taken from it, one more for several strides.
            starts: bool [T], frames at which a window may begin; None for all. What is stored of windows, and
                not of frames, restricts them so.

        Raises:
            DataError: the clip has no window.
        """
        low, high = (int(bound) for bound in self._bounds(np.array(num_frames)))
        usable = self._complete(num_frames, runs) if self.holes else self._usable(num_frames, runs)
        if not usable:
            raise DataError(
                f"has no {self.reach} valid frames in a row within {self.span} of its {num_frames}"
            )
        strides = self.strides
        stride = strides[0] if len(strides) == 1 else int(rng.choice(strides))
        wanted = (self.clip_frames - 1) * stride + 1
        if self.holes:
            reaches, kept = [wanted] * len(usable), [frames for _, frames in usable]
        else:
            reaches = [min(wanted, len(frames)) for _, frames in usable]
            kept = [frames[: len(frames) - n + 1] for (_, frames), n in zip(usable, reaches, strict=True)]
        if starts is not None:
            kept = [frames[starts[frames]] for frames in kept]
        possible = np.concatenate(kept)
        if not len(possible):
            raise DataError(f"has no window within {self.span} among those that its features are of")
        run_of = np.repeat(np.arange(len(usable)), [len(each) for each in kept])
        choice = np.arange(len(possible))
        # Windows that were computed beforehand are all wanted; nothing need be decoded of them.
        picked = rng.choice(choice if starts is not None else self._snapped(choice, keyframes[possible]))
        track, reach = usable[run_of[picked]][0], reaches[run_of[picked]]
        window = spread(int(possible[picked]), reach, self.clip_frames)
        if self.reference is None:
            return Window(track, window, None)
        own = runs[runs[:, 0] == track]
        if self.reference != "random":  # who reads the landmarks looks for the neutral one
            return Window(track, window, int(own[:, 1].min()))
        valid = np.concatenate([np.arange(max(start, low), min(end, high)) for _, start, end in own.tolist()])
        outside = np.ones(num_frames, bool)
        outside[window] = False
        others = valid[outside[valid]]
        others = others if len(others) else valid
        return Window(track, window, int(rng.choice(self._snapped(others, keyframes[others]))))

    def has_window(self, num_frames: int, runs: np.ndarray, starts: np.ndarray) -> bool:
        """Whether the shortest windows can begin at one of `starts`, bool [T]; see `choose`."""
        if self.holes:
            return any(starts[frames].any() for _, frames in self._complete(num_frames, runs))
        return any(
            starts[frames[: len(frames) - self.reach + 1]].any()
            for _, frames in self._usable(num_frames, runs)
        )

    def _usable(self, num_frames: int, runs: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Person and frames of each run, as far as windows may lie there, that has room for one."""
        low, high = (int(bound) for bound in self._bounds(np.array(num_frames)))
        borders = [
            (track, max(start + self.lead, low), min(end, high)) for track, start, end in runs.tolist()
        ]
        return [(track, np.arange(low, high)) for track, low, high in borders if high - low >= self.reach]

    def _complete(self, num_frames: int, runs: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Person and first frames of the windows of each, where there are some; holes are allowed."""
        low, high = (int(bound) for bound in self._bounds(np.array(num_frames)))
        found = []
        for track in np.unique(runs[:, 0]).tolist():
            valid = np.zeros(num_frames, bool)
            for _, start, end in runs[runs[:, 0] == track].tolist():
                valid[max(start, low) : min(end, high)] = True
            starts = complete_starts(valid, self.clip_frames, self.strides[0], holes=self.holes)
            if len(starts):
                found.append((track, starts))
        return found

    def _bounds(self, num_frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First frame of the span and the one after its last, rounded alike, so that spans tile a clip."""
        return np.rint(self.span[0] * num_frames).astype(int), np.rint(self.span[1] * num_frames).astype(int)

    def _snapped(self, candidates: np.ndarray, at_keyframe: np.ndarray) -> np.ndarray:
        return candidates[at_keyframe] if self.snap_keyframes and at_keyframe.any() else candidates


def complete_starts(valid: np.ndarray, count: int, stride: int, *, holes: int = 0) -> np.ndarray:
    """First frames, int64, increasing, of all windows of `count` valid frames, `stride` apart.

    Args:
        valid: bool [T].
        holes: so many frames in a row may be invalid between those of a window.
    """
    reach = (count - 1) * stride + 1
    places = np.arange(max(len(valid) - reach + 1, 0))
    shown = valid[places[:, None] + stride * np.arange(count)].all(axis=1)
    # Where each stretch of invalid frames is longer than allowed, from its frame `holes` on.
    missed = np.arange(len(valid)) - np.maximum.accumulate(np.where(valid, np.arange(len(valid)), -1))
    too_long = np.concatenate([[0], np.cumsum(missed > holes)])
    return places[shown & (too_long[places + reach] == too_long[places])]


def run_before(runs: np.ndarray, track: int, frame: int) -> int:
    """First frame of the run of `track` that holds `frame`; runs int [R, 3] track, start, end."""
    (start,) = (start for of, start, end in runs.tolist() if of == track and start <= frame < end)
    return int(start)


def spread(start: int, reach: int, count: int) -> np.ndarray:
    """`count` frames, int64, from `start` to the last of `reach` frames, evenly spread and rounded down."""
    return start + np.arange(count, dtype=np.int64) * (reach - 1) // max(count - 1, 1)
