"""The surest box of each person and region: where a video segmenter is prompted."""

from typing import Any

from portraitgen.data.formats.consisid.detections import REGIONS, FrameDetections
from portraitgen.data.sample import DataError

BestBoxes = dict[int, dict[str, dict[str, Any]]]
ObjectTable = dict[str, dict[str, int]]


def find_max_confidence_bbox(
    frames: FrameDetections, max_people: int, confidence_threshold: float = 0.85, *, compat: bool = False
) -> tuple[BestBoxes, dict[int, dict[str, Any]]]:
    """The box of highest confidence above a threshold, the first of equals, for each person and region.

    Args:
        max_people: persons with a higher id are left out.
        compat: as ConsisID: the face belonging to a head may be that of an earlier frame than the head's
            box, and a face that belongs to nobody is an error.

    Returns:
        best: person -> region -> {"box", "frame_id", "confidence"}.
        head_to_face: person -> {"face_box", "face_frame_id", "confidence"} of the frame of the best head;
            empty when no face of the person was found in it.

    Raises:
        DataError: compat, and a face without `new_track_id`.
    """
    best: BestBoxes = {}
    head_to_face: dict[int, dict[str, Any]] = {}
    for frame, objects in frames.items():
        for region in REGIONS:
            for item in objects.get(region, []):
                track, confidence = item.get("new_track_id"), item["confidence"]
                if track is None or track > max_people or confidence <= confidence_threshold:
                    continue
                regions = best.setdefault(track, {})
                if region in regions and regions[region]["confidence"] >= confidence:
                    continue
                regions[region] = {"box": item["box"], "frame_id": frame, "confidence": confidence}
                if region == "head":
                    face = _face_of(objects.get("face", []), track, frame, compat)
                    if face or not compat:
                        head_to_face[track] = face
                    head_to_face.setdefault(track, {})
    return best, head_to_face


def _face_of(faces: list[dict[str, Any]], track: int, frame: str, compat: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for face in faces:
        if compat and "new_track_id" not in face:
            raise DataError(f"bbox_data: frame {frame} has a face without new_track_id; run without compat")
        if face.get("new_track_id") == track:
            found = {"face_box": face["box"], "face_frame_id": frame, "confidence": face["confidence"]}
    return found


def mask_objects(best: BestBoxes) -> tuple[ObjectTable, ObjectTable]:
    """ConsisID's `corresponding_data` and `control_sam2_frame` of the best boxes.

    Returns:
        person -> region -> mask object id (1, 2, ... over persons, then face, head, person), and
        person -> region -> frame of the best box.
    """
    corresponding: ObjectTable = {}
    control: ObjectTable = {}
    number = 0
    for track, regions in best.items():
        for region in REGIONS:
            if region in regions:
                number += 1
                corresponding.setdefault(str(track), {})[region] = number
                control.setdefault(str(track), {})[region] = int(regions[region]["frame_id"])
    return corresponding, control
