"""Who is who along a clip: `new_track_id` for persons, heads and faces."""

import copy
from collections.abc import Iterable
from itertools import count

import numpy as np

from portraitgen.data.formats.consisid.detections import (
    Box,
    Detection,
    FrameDetections,
    compute_iou,
    estimate_num_people,
)
from portraitgen.data.sample import DataError
from portraitgen.faces.association import match_boxes, match_parts


def assign_track_ids(
    frames: FrameDetections, *, min_iou: float = 0.7, max_gap: int = 12, compat: bool = False
) -> FrameDetections:
    """A copy of the detections with a `new_track_id` (1, 2, ...) wherever the person is known.

    Persons are matched one to one with those seen last, up to `max_gap` frames ago, by IoU above `min_iou`;
    heads and faces go one to one to the person that contains them, so also where the person was missed.

    Args:
        compat: as ConsisID: persons are matched with the frame before only and two may get one id; heads and
            faces go to the person of highest IoU; ids above the number of people are replaced by those of the
            next frame with as many persons, by their order in the lists.

    Raises:
        DataError: no frame in which the detectors agree on a number of people.
    """
    max_people = estimate_num_people(frames)
    if max_people == 0:
        raise DataError(
            "bbox_data: in no frame do person, head and face detections agree on a number of people"
        )
    tracked = copy.deepcopy(frames)
    if compat:
        _assign_to_frame_before(tracked, min_iou)
        _refine(tracked, max_people)
    else:
        _assign_one_to_one(tracked, min_iou, max_gap)
    return tracked


def _assign_one_to_one(frames: FrameDetections, min_iou: float, max_gap: int) -> None:
    numbers = count(1)
    seen: dict[int, tuple[int, Box]] = {}
    for frame in sorted(map(int, frames)):
        objects = frames[str(frame)]
        seen = {track: last for track, last in seen.items() if frame - last[0] <= max_gap + 1}
        persons = objects.get("person", [])
        last = _boxes(box for _, box in seen.values())
        known = match_boxes(_boxes(person["box"] for person in persons), last, min_iou=min_iou)
        tracks = list(seen)
        for number, person in enumerate(persons):
            track = tracks[known[number]] if number in known else next(numbers)
            person["new_track_id"] = track
            seen[track] = (frame, person["box"])
        for region in ("head", "face"):
            items = objects.get(region, [])
            persons_now = _boxes(box for _, box in seen.values())
            owners = match_parts(_boxes(item["box"] for item in items), persons_now)
            tracks = list(seen)
            for number, owner in owners.items():
                items[number]["new_track_id"] = tracks[owner]


def _boxes(boxes: Iterable[Box]) -> np.ndarray:
    corners = [[float(box[name]) for name in ("x1", "y1", "x2", "y2")] for box in boxes]
    return np.array(corners).reshape(-1, 4)


def _assign_to_frame_before(frames: FrameDetections, min_iou: float) -> None:
    numbers = count(1)
    before: dict[int, Box] = {}
    for objects in frames.values():
        now: dict[int, Box] = {}
        free = {region: dict(enumerate(objects.get(region, []))) for region in ("head", "face")}
        for person in objects.get("person", []):
            track = _nearest(person["box"], before.items(), min_iou)
            person["new_track_id"] = track = next(numbers) if track is None else track
            now[track] = person["box"]
            for items in free.values():
                boxes = [(number, item["box"]) for number, item in items.items()]
                part = _nearest(person["box"], boxes, min_iou)
                if part is not None:
                    items.pop(part)["new_track_id"] = track
        for items in free.values():
            for item in items.values():
                track = _nearest(item["box"], now.items(), 0)
                if track is not None:
                    item["new_track_id"] = track
        before = now


def _nearest(box: Box, others: Iterable[tuple[int, Box]], above: float) -> int | None:
    """Name of the box with the highest IoU above a threshold; the first of equals."""
    nearest, best = None, above
    for name, other in others:
        iou = compute_iou(box, other)
        if iou > best:
            nearest, best = name, iou
    return nearest


def _refine(frames: FrameDetections, max_people: int) -> None:
    for frame, objects in frames.items():
        faces = objects.get("face", [])
        if not objects.get("person") and faces:
            for face, person in zip(faces, _next_persons(frames, frame, len(faces)), strict=False):
                face["new_track_id"] = person["new_track_id"]
    for frame, objects in frames.items():
        persons = objects.get("person", [])
        if max((person["new_track_id"] for person in persons), default=0) > max_people:
            later = _next_persons(frames, frame, len(persons))
            # Persons that share an id (see above) all get the last one's replacement.
            replaced = {
                old["new_track_id"]: new["new_track_id"] for old, new in zip(persons, later, strict=False)
            }
            for person in persons:
                person["new_track_id"] = replaced.get(person["new_track_id"], person["new_track_id"])


def _next_persons(frames: FrameDetections, frame: str, number: int) -> list[Detection]:
    """Persons of the next frame that has this many of them; none if there is no such frame."""
    following = (frames[str(index)].get("person", []) for index in range(int(frame) + 1, len(frames)))
    return next((persons for persons in following if len(persons) == number), [])
