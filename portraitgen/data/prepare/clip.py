"""From tracks to clips: which frames of which person become one sample, and the square it is cut out with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from portraitgen.data.prepare.crop import Crop, choose_crop
from portraitgen.data.prepare.settings import PrepareSettings
from portraitgen.faces.types import Track


@dataclass(frozen=True, slots=True, eq=False)
class PlannedClip:
    """Frames `start` to `stop` (not included) of one person, counted from 1 along the video.

    `track` counts frames from the video's start and is in pixels of the source; `cropped` counts them from
    the clip's start and is in pixels of the crop.
    """

    person: int
    start: int
    stop: int
    track: Track
    cropped: Track
    crop: Crop

    @property
    def valid(self) -> np.ndarray:
        """bool [stop - start]: the face was found and its five key points lie in the crop."""
        inside = ((self.cropped.keypoints >= 0) & (self.cropped.keypoints < self.crop.size)).all(axis=(1, 2))
        valid = np.zeros(self.stop - self.start, dtype=bool)
        valid[self.cropped.frames[inside]] = True
        return valid


def plan_clips(
    tracks: Sequence[Track], *, image_size: tuple[int, int], settings: PrepareSettings
) -> tuple[list[PlannedClip], int]:
    """Cut tracks into clips of at most `max_frames`, into equally long ones where a track needs several.

    People are numbered by their first frame, then from left to right. A clip begins and ends with a frame in
    which the face was found, and has at least `min_frames` valid ones.

    Returns:
        The clips by start frame and person, and the number of pieces with too few valid frames.
    """
    clips: list[PlannedClip] = []
    too_short = 0
    ordered = sorted(tracks, key=lambda track: (track.frames[0], track.boxes[0, 0]))
    for person, track in enumerate(ordered, start=1):
        first, end = int(track.frames[0]), int(track.frames[-1]) + 1
        num_pieces = -(-(end - first) // settings.max_frames)
        bounds = np.linspace(first, end, num_pieces + 1).round().astype(int)
        for start, stop in pairwise(bounds):
            inside = (track.frames >= start) & (track.frames < stop)
            clip = _plan_clip(person, _pick(track, inside), image_size, settings) if inside.any() else None
            if clip is None or clip.valid.sum() < settings.min_frames:
                too_short += 1
            else:
                clips.append(clip)
    return sorted(clips, key=lambda clip: (clip.start, clip.person)), too_short


def _plan_clip(
    person: int, track: Track, image_size: tuple[int, int], settings: PrepareSettings
) -> PlannedClip:
    start, stop = int(track.frames[0]), int(track.frames[-1]) + 1
    crop = choose_crop(track.boxes, image_size=image_size, size=settings.size, margin=settings.margin)
    cropped = replace(
        track,
        frames=track.frames - start,
        boxes=crop.boxes_to_crop(track.boxes),
        landmarks=crop.to_crop(track.landmarks),
        keypoints=crop.to_crop(track.keypoints),
    )
    return PlannedClip(person, start, stop, track, cropped, crop)


def _pick(track: Track, rows: np.ndarray) -> Track:
    return replace(
        track,
        frames=track.frames[rows],
        boxes=track.boxes[rows],
        scores=track.scores[rows],
        landmarks=track.landmarks[rows],
        keypoints=track.keypoints[rows],
    )
