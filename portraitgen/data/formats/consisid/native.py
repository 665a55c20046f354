"""ConsisID's tables as our tracks have them, and back: boxes of the regions, masks, valid frames."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from portraitgen.data.formats.consisid.detections import REGIONS, FrameDetections
from portraitgen.data.formats.consisid.layout import Annotations
from portraitgen.data.sample import ClipRegion, ClipTrack, DataError

_CORNERS = ("x1", "y1", "x2", "y2")
# Names and classes as ConsisID's detectors give them.
_DETECTORS = {"face": ("FACE", 0), "head": ("head", 1), "person": ("person", 0)}


def tracks_of(annotations: Annotations, frames: FrameDetections, intact: np.ndarray) -> dict[int, ClipTrack]:
    """Track number -> person, those seen longest first; without key points and landmarks.

    They are the people that have a face mask, or without masks all that have a face box. A frame of a region
    is valid where it was found, has a mask if there are any, and is not damaged.

    Args:
        frames: the detections keyed by frame.
        intact: bool [T].

    Raises:
        DataError: nobody has a face.
    """
    if annotations.corresponding_data:
        tables = annotations.corresponding_data.items()
        numbers = {int(track) for track, regions in tables if "face" in regions}
    else:
        faces = (face for objects in frames.values() for face in objects.get("face", []))
        numbers = {face["new_track_id"] for face in faces if "new_track_id" in face}
    tracks = {number: _track(annotations, frames, number, intact) for number in sorted(numbers)}
    shown = {number: track for number, track in tracks.items() if not np.isnan(track.scores).all()}
    if not shown:
        raise DataError(
            f"clip {annotations.name}: no person has both a face box and, where there are masks, a mask"
        )
    return dict(sorted(shown.items(), key=lambda item: -int(item[1].valid.sum())))


def _track(annotations: Annotations, frames: FrameDetections, number: int, intact: np.ndarray) -> ClipTrack:
    masked = annotations.corresponding_data.get(str(number), {})
    controlled = annotations.control_sam2_frame.get(str(number), {})
    face, head, person = (_region(annotations, frames, number, name, intact) for name in REGIONS)
    regions = {"face": face}
    for name, region in (("head", head), ("person", person)):
        if name in masked or name in controlled or not np.isnan(region.scores).all():
            regions[name] = region
    length = annotations.num_frames
    return ClipTrack(
        boxes=face.boxes,
        scores=face.scores,
        keypoints=np.full((length, 5, 2), np.nan, np.float32),
        landmarks=np.zeros((length, 0, 2), np.float32),
        valid=face.valid,
        head=regions.get("head"),
        person=regions.get("person"),
        mask_ids={name: masked[name] for name in regions if annotations.mask_ids and name in masked},
        control_frames={name: controlled[name] for name in regions if name in controlled},
    )


def _region(
    annotations: Annotations, frames: FrameDetections, number: int, name: str, intact: np.ndarray
) -> ClipRegion:
    boxes = np.full((annotations.num_frames, 4), np.nan, np.float32)
    scores = np.full(annotations.num_frames, np.nan, np.float32)
    for frame, objects in frames.items():
        for item in objects.get(name, []):
            if item.get("new_track_id") == number and not scores[int(frame)] >= item["confidence"]:
                boxes[int(frame)] = [item["box"][corner] for corner in _CORNERS]
                scores[int(frame)] = item["confidence"]
    valid = intact & ~np.isnan(scores)
    if annotations.corresponding_data:
        masked = np.zeros(annotations.num_frames, dtype=bool)
        masked[annotations.valid_frame.get(str(number), {}).get(name, [])] = True
        valid &= masked
    return ClipRegion(boxes=boxes, scores=scores, valid=valid)


def tables_of(tracks: Mapping[int, ClipTrack]) -> dict[str, dict[str, Any]]:
    """`corresponding_data`, `control_sam2_frame` and `valid_frame` as the tracks say them."""
    return {
        "corresponding_data": {str(number): dict(track.mask_ids) for number, track in tracks.items()},
        "control_sam2_frame": {str(number): dict(track.control_frames) for number, track in tracks.items()},
        "valid_frame": {
            str(number): {
                name: np.flatnonzero(region.valid).tolist() for name, region in track.regions().items()
            }
            for number, track in tracks.items()
        },
    }


def detections_of(tracks: Sequence[ClipTrack]) -> FrameDetections:
    """`bbox_data`, keyed by frame, of people who are numbered from 1 on."""
    frames: FrameDetections = {str(frame): {} for frame in range(len(tracks[0].boxes))}
    for number, track in enumerate(tracks, start=1):
        for name, region in track.regions().items():
            for frame in np.flatnonzero(~np.isnan(region.boxes).any(axis=1)).tolist():
                box = dict(zip(_CORNERS, region.boxes[frame].tolist(), strict=True))
                label, kind = _DETECTORS[name]
                confidence = float(np.nan_to_num(region.scores[frame]))
                item = {"name": label, "class": kind, "confidence": confidence, "box": box}
                frames[str(frame)].setdefault(name, []).append(
                    {**item, "track_id": number, "new_track_id": number}
                )
    return frames
