"""Which frames of a clip make one training example, as ConsisID's loader chooses them.

To compare with: our own windows are those of `data/clips`.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from portraitgen.data.formats.consisid.segments import get_valid_segments
from portraitgen.data.sample import DataError


@dataclass(frozen=True, slots=True)
class Skip:
    """What to leave out at both ends: shares of the length if one of them is set, else frames."""

    start: int = 0
    end: int = 0
    start_percent: float = 0.0
    end_percent: float = 1.0

    def span(self, length: int) -> tuple[int, int]:
        """First position and end (exclusive) of what remains of `length` frames.

        Raises:
            DataError: nothing remains.
        """
        if (self.start_percent, self.end_percent) != (0.0, 1.0):
            first, end = int(length * self.start_percent), int(length * self.end_percent)
        else:
            first, end = self.start, length - self.end
        if end <= first:
            raise DataError(f"nothing remains of {length} frames when {self} is left out: skip fewer frames")
        return first, end


def get_frame_indices_adjusted_for_face(
    valid_frames: Sequence[int], n_frames: int, *, compat: bool = False
) -> list[int]:
    """The first `n_frames` of the frames; where there are fewer, some twice or more, in order.

    Args:
        compat: as ConsisID: the earliest frames are repeated (the clip begins in slow motion); by default
            repetitions are spread evenly.

    Raises:
        DataError: no frames.
    """
    if not valid_frames:
        raise DataError(f"no valid frame to make {n_frames} frames from")
    if len(valid_frames) >= n_frames:
        return list(valid_frames[:n_frames])
    length = len(valid_frames)
    if compat:
        places = [number % length for number in range(n_frames)]
    else:
        places = [number * length // n_frames for number in range(n_frames)]
    return sorted(valid_frames[place] for place in places)


def generate_frame_indices_for_face(
    n_frames: int,
    sample_stride: int,
    valid_frame: Mapping[str, Sequence[int]],
    *,
    rng: random.Random,
    tolerance: int = 7,
    skip: Skip | None = None,
    compat: bool = False,
) -> tuple[list[int], int]:
    """Frames of the longest segment that shows one person, `sample_stride` apart from a random start.

    Ends are skipped only where the segment is longer than `n_frames`.

    Args:
        valid_frame: "face" and "head" -> frames that have a mask.
        compat: as ConsisID: any start, and where a frame then turns out not to be valid, the frames before it
            are repeated. By default a start is chosen from which all frames are valid, or as many as can be.

    Returns:
        The frames, and how many there were before any was repeated.

    Raises:
        DataError: no valid frame, or none left after skipping.
    """
    segment = max(get_valid_segments(valid_frame, tolerance), key=len)
    if len(segment) <= n_frames:
        return get_frame_indices_adjusted_for_face(segment, n_frames, compat=compat), len(segment)
    first, end = (skip or Skip()).span(len(segment))
    valid = set(segment)

    def run(start: int) -> list[int]:
        frames = range(start, start + n_frames * sample_stride, sample_stride)
        holes = (place for place, frame in enumerate(frames) if frame not in valid)
        return list(frames[: next(holes, n_frames)])

    if compat:
        clip_length = min(end - first, (n_frames - 1) * sample_stride + 1)
        chosen = run(segment[rng.randint(first, end - clip_length)])
    else:
        last = segment[end - 1]
        runs = [[frame for frame in run(start) if frame <= last] for start in segment[first:end]]
        most = max(map(len, runs))
        chosen = rng.choice([frames for frames in runs if len(frames) == most])
    return get_frame_indices_adjusted_for_face(chosen, n_frames, compat=compat), len(chosen)


def generate_frame_indices(
    video_length: int,
    n_frames: int,
    sample_stride: int,
    *,
    rng: random.Random,
    skip: Skip | None = None,
    compat: bool = False,
) -> list[int]:
    """Frames of a whole video, whoever is in it, evenly spaced from a random start.

    Where the video is too short for the stride, the spacing is smaller; with no more than `n_frames` frames
    (ends are then not skipped), frames are repeated.

    Args:
        compat: see `get_frame_indices_adjusted_for_face`.

    Raises:
        DataError: nothing is left after skipping.
    """
    first, end = (skip or Skip()).span(video_length)
    if video_length <= n_frames:
        return get_frame_indices_adjusted_for_face(range(video_length), n_frames, compat=compat)
    clip_length = min(end - first, (n_frames - 1) * sample_stride + 1)
    start = rng.randint(first, end - clip_length)
    spaced: list[int] = np.linspace(start, start + clip_length - 1, n_frames, dtype=int).tolist()
    return spaced
