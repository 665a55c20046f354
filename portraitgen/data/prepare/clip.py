"""From tracks to clips: which frames of which person become one sample, and what of the picture it shows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from portraitgen.data.prepare.crop import choose_crop
from portraitgen.data.prepare.settings import PrepareSettings
from portraitgen.faces.types import Face, Track, Trail
from portraitgen.media.framing import Framing


@dataclass(frozen=True, slots=True, eq=False)
class PlannedClip:
    """Frames `start` to `stop` (not included) of one person, counted from 1 along the video.

    `trail` says where its faces are; it counts frames from the video's start.
    """

    person: int
    start: int
    stop: int
    trail: Trail
    crop: Framing

    def cropped(self, track: Track) -> Track:
        """The clip's track, counting frames from the clip's start and in pixels of the crop."""
        return replace(
            track,
            frames=track.frames - self.start,
            boxes=self.crop.boxes_to_frame(track.boxes),
            landmarks=self.crop.to_frame(track.landmarks),
            keypoints=self.crop.to_frame(track.keypoints),
        )

    def valid(self, cropped: Track) -> np.ndarray:
        """bool [stop - start]: the face was found and its five key points lie in the crop."""
        height, width = self.crop.size
        inside = ((cropped.keypoints >= 0) & (cropped.keypoints < (width, height))).all(axis=(1, 2))
        valid = np.zeros(self.stop - self.start, dtype=bool)
        valid[cropped.frames[inside]] = True
        return valid


def plan_clips(
    trails: Sequence[Trail],
    faces: Sequence[list[Face]],
    *,
    image_size: tuple[int, int],
    settings: PrepareSettings,
) -> tuple[list[PlannedClip], int]:
    """Cut tracks into clips of at most `max_frames`, into equally long ones where a track needs several.

    People are numbered by their first frame, then from left to right. A clip begins and ends with a frame in
    which the face was found, and has at least `min_frames` valid ones.

    Args:
        trails: of the tracks.
        faces: those found in each frame of the video, read a clip at a time.

    Returns:
        The clips by start frame and person, and the number of pieces with too few valid frames.
    """
    clips: list[PlannedClip] = []
    too_short = 0
    ordered = sorted(
        trails, key=lambda trail: (trail.frames[0], faces[trail.frames[0]][trail.places[0]].box[0])
    )
    for person, trail in enumerate(ordered, start=1):
        first, end = int(trail.frames[0]), int(trail.frames[-1]) + 1
        num_pieces = -(-(end - first) // settings.max_frames)
        bounds = np.linspace(first, end, num_pieces + 1).round().astype(int)
        for start, stop in pairwise(bounds):
            piece = trail.between(start, stop)
            clip = _plan_clip(person, piece, faces, image_size, settings) if len(piece.frames) else None
            if clip is None:
                too_short += 1
            else:
                clips.append(clip)
    return sorted(clips, key=lambda clip: (clip.start, clip.person)), too_short


def _plan_clip(
    person: int,
    trail: Trail,
    faces: Sequence[list[Face]],
    image_size: tuple[int, int],
    settings: PrepareSettings,
) -> PlannedClip | None:
    """The clip of a piece of somebody's trail; None where it has too few valid frames."""
    track = trail.track(faces)
    start, stop = int(track.frames[0]), int(track.frames[-1]) + 1
    crop = choose_crop(track.boxes, image_size=image_size, size=settings.frame_size, margin=settings.margin)
    clip = PlannedClip(person, start, stop, trail, crop)
    return clip if clip.valid(clip.cropped(track)).sum() >= settings.min_frames else None
