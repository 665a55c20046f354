"""ConsisID's detections (`bbox_data`): what they look like, the two ways they are keyed, and who is counted.

Keyed by frame, as its tools write them:

    {"0": {"face": [{"name", "class", "confidence", "box": {"x1", "y1", "x2", "y2"}, "track_id",
                     "new_track_id"}], "head": [...], "person": [...], "pose": [...]}, "1": ...}

Keyed by track, as others pass them on: {"1": {"frames": [0, ...], "face": [{"frame_id": 0, ...}], ...}}.
`new_track_id` names the person; `track_id` is the detector's and means nothing across regions.
"""

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

from portraitgen.data.sample import DataError

Box = Mapping[str, float]
Detection = dict[str, Any]
FrameDetections = dict[str, dict[str, list[Detection]]]

REGIONS = ("face", "head", "person")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_CORNERS = ("x1", "y1", "x2", "y2")
_MIN_CONFIDENCE = 0.6


def compute_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes; 0 when both are empty."""
    width = min(first["x2"], second["x2"]) - max(first["x1"], second["x1"])
    height = min(first["y2"], second["y2"]) - max(first["y1"], second["y1"])
    shared = max(0, width) * max(0, height)
    union = _area(first) + _area(second) - shared
    return shared / union if union else 0.0


def _area(box: Box) -> float:
    return (box["x2"] - box["x1"]) * (box["y2"] - box["y1"])


def estimate_num_people(frames: Mapping[str, Mapping[str, list[Detection]]]) -> int:
    """The largest number of people on whom the detectors of one frame agree (confidence above 0.6).

    Agreement of all three regions counts most, then person and head, then person and face; 0 if there is
    none.
    """
    agreed = dict.fromkeys((REGIONS, ("person", "head"), ("person", "face")), 0)
    for objects in frames.values():
        counts = {
            region: sum(item.get("confidence", 0) > _MIN_CONFIDENCE for item in objects.get(region, []))
            for region in REGIONS
        }
        for plan in agreed:
            if len({counts[region] for region in plan}) == 1:
                agreed[plan] = max(agreed[plan], counts["person"])
    return next((people for people in agreed.values() if people), 0)


def find_frames_with_fewer_person_boxes(frames: FrameDetections, max_people: int) -> list[str]:
    """Frames in which the pose detector saw more people than the person detector, which missed somebody."""
    return [
        frame
        for frame, objects in frames.items()
        if len(objects.get("person", [])) < min(max_people, len(objects.get("pose", [])))
    ]


def fix_bbox_with_pose(frames: FrameDetections, chosen: Iterable[str | int]) -> FrameDetections:
    """A copy whose person boxes in the `chosen` frames are those of the pose detector, if it has any."""
    fixed = copy.deepcopy(frames)
    for frame in chosen:
        objects = fixed[str(frame)]
        if objects.get("pose"):
            objects["person"] = [
                {
                    "name": "person",
                    "class": pose["class"],
                    "confidence": pose["confidence"],
                    "box": pose["box"],
                    "track_id": pose.get("track_id"),
                }
                for pose in objects["pose"]
            ]
    return fixed


def check_detections(frames: FrameDetections) -> None:
    """Raise DataError unless all faces, heads and persons have a box, a confidence, and a number if any."""
    for frame, objects in frames.items():
        for region in REGIONS:
            for item in objects.get(region, []):
                box = item.get("box")
                corners = [box.get(name) for name in _CORNERS] if isinstance(box, dict) else [None]
                numbers = (*corners, item.get("confidence"))
                if not all(type(number) in (int, float) for number in numbers):
                    raise DataError(f"frame {frame}: a {region} without a box of numbers and a confidence")
                if type(item.get("new_track_id", 0)) is not int:
                    raise DataError(f"frame {frame}: new_track_id {item['new_track_id']!r} is not a number")


def is_keyed_by_track(bbox_data: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the detections are keyed by track: every entry lists its `frames`."""
    return bool(bbox_data) and all("frames" in entry for entry in bbox_data.values())


def key_by_frame(bbox_data: Mapping[str, Mapping[str, Any]], *, num_frames: int) -> FrameDetections:
    """Detections keyed by frame, whichever way they are keyed; every detection has its `new_track_id`.

    Raises:
        DataError: a track or frame number that is none, or a frame that the clip does not have.
    """
    if not is_keyed_by_track(bbox_data):
        for frame in bbox_data:
            _frame_number(frame, num_frames)
        return copy.deepcopy({frame: dict(objects) for frame, objects in bbox_data.items()})
    frames: FrameDetections = {str(frame): {} for frame in range(num_frames)}
    for track, entry in bbox_data.items():
        if not _NUMBER.fullmatch(track):
            raise DataError(f"bbox_data: track {track!r} is not a number")
        for region, items in entry.items():
            for item in items if region != "frames" else []:
                rest = {name: value for name, value in item.items() if name != "frame_id"}
                number = _frame_number(item.get("frame_id"), num_frames)
                frames[str(number)].setdefault(region, []).append({**rest, "new_track_id": int(track)})
    return copy.deepcopy(frames)


def key_by_track(frames: FrameDetections) -> dict[str, dict[str, Any]]:
    """Detections keyed by track, from those keyed by frame; those of nobody in particular are left out."""
    tracks: dict[str, dict[str, Any]] = {}
    for frame in sorted(frames, key=int):
        for region, items in frames[frame].items():
            for item in items:
                if "new_track_id" not in item:
                    continue
                entry = tracks.setdefault(str(item["new_track_id"]), {"frames": []})
                if int(frame) not in entry["frames"][-1:]:
                    entry["frames"].append(int(frame))
                rest = {name: value for name, value in item.items() if name != "new_track_id"}
                entry.setdefault(region, []).append({"frame_id": int(frame), **rest})
    return copy.deepcopy(tracks)


def _frame_number(frame: Any, num_frames: int) -> int:
    if not _NUMBER.fullmatch(str(frame)) or int(frame) >= num_frames:
        raise DataError(f"bbox_data: {frame!r} is not one of the clip's frames 0 to {num_frames - 1}")
    return int(frame)
