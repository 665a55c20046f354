"""Which stretches of a video show a face: ConsisID's cutting of videos, and its valid segments of a clip."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from portraitgen.data.formats.consisid.detections import Detection, FrameDetections
from portraitgen.data.sample import DataError

_MIN_VISIBLE = 0.6


def extract_useful_frames(
    frames: FrameDetections, *, min_valid_frames: int = 49, tolerance: int = 5
) -> list[list[int]]:
    """Stretches in which a face of some size was found, with holes of at most `tolerance` frames."""
    found = ((frame, _has_face(frames.get(str(frame), {}))) for frame in range(len(frames)))
    return _stretches(found, min_valid_frames, tolerance)


def extract_valid_segments_from_filtered_data(
    poses: Mapping[str, Sequence[Detection]], *, min_valid_frames: int = 49, tolerance: int = 5
) -> list[list[int]]:
    """Stretches in which somebody shows the nose and an eye, with holes of at most `tolerance` frames.

    Args:
        poses: frame -> pose detections; the frames need not follow one another.
    """
    seen = ((frame, any(map(_shows_half_face, poses[str(frame)]))) for frame in sorted(map(int, poses)))
    return _stretches(seen, min_valid_frames, tolerance)


def merge_segments(first: Iterable[Sequence[int]], second: Sequence[Sequence[int]]) -> list[list[int]]:
    """The frames that each stretch of the one shares with each of the other, where they share any."""
    shared = (sorted(set(one) & set(other)) for one in first for other in second)
    return [frames for frames in shared if frames]


def get_valid_segments(valid_frame: Mapping[str, Sequence[int]], tolerance: int = 5) -> list[list[int]]:
    """Frames of one person in which face or head has a mask, cut wherever two are over `tolerance` apart.

    Raises:
        DataError: no "face" or no "head", or no frame at all.
    """
    missing = [region for region in ("face", "head") if region not in valid_frame]
    if missing:
        raise DataError(f"valid_frame has no {' and no '.join(missing)}: this person has no such mask")
    frames = sorted({*valid_frame["face"], *valid_frame["head"]})
    if not frames:
        raise DataError("valid_frame lists no frame of face or head: nothing to choose from")
    segments = [[frames[0]]]
    for before, frame in pairwise(frames):
        if frame - before > tolerance:
            segments.append([])
        segments[-1].append(frame)
    return segments


def _stretches(frames: Iterable[tuple[int, bool]], min_frames: int, tolerance: int) -> list[list[int]]:
    """Stretches that begin and end with a good frame, have at most `tolerance` bad ones in a row, and are
    long enough."""
    stretches: list[list[int]] = []
    pending: list[int] = []
    for frame, good in frames:
        if good:
            if not stretches or len(pending) > tolerance:
                stretches.append([])
                pending = []
            stretches[-1] += [*pending, frame]
            pending = []
        elif stretches:
            pending.append(frame)
    return [stretch for stretch in stretches if len(stretch) >= min_frames]


def _has_face(objects: Mapping[str, list[Detection]]) -> bool:
    boxes = (face["box"] for face in objects.get("face", []))
    return any(box["x2"] > box["x1"] and box["y2"] > box["y1"] for box in boxes)


def _shows_half_face(pose: Mapping[str, Any]) -> bool:
    nose, left_eye, right_eye = pose["keypoints"]["visible"][:3]
    return bool(nose >= _MIN_VISIBLE and max(left_eye, right_eye) >= _MIN_VISIBLE)
