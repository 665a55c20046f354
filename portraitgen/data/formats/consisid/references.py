"""Reference frames of a person: sure detections, some frames apart, with their masks and boxes."""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from portraitgen.data.formats.consisid.detections import Box, Detection
from portraitgen.data.sample import DataError

DetectionsByFrame = Mapping[str, Mapping[str, list[Detection]]]
_THRESHOLDS = (0.95, 0.94, 0.93, 0.92, 0.91, 0.90)


def frame_has_required_confidence(
    bbox_data: DetectionsByFrame,
    frame: int | str,
    track: int | str,
    conf_threshold: float = 0.88,
    *,
    compat: bool = False,
) -> bool:
    """Whether both face and head of a person were found in a frame with confidence above a threshold.

    Args:
        compat: as ConsisID: a track given as text is nobody's, and a detection without `new_track_id` is an
            error. By default tracks are compared as numbers.

    Raises:
        DataError: compat, and a sure detection has no `new_track_id`.
    """
    wanted = track if compat else int(track)

    def found(item: Detection) -> bool:
        if item["confidence"] <= conf_threshold:
            return False
        if compat and "new_track_id" not in item:
            raise DataError(
                f"bbox_data: a detection in frame {frame} has no new_track_id; run without compat"
            )
        return item.get("new_track_id") == wanted

    objects = bbox_data.get(str(frame))
    return objects is not None and all(
        any(map(found, objects.get(region, []))) for region in ("face", "head")
    )


def select_frames_with_distance_constraint(
    frames: Sequence[int],
    num_frames: int,
    min_distance: int,
    control_frame: int,
    bbox_data: DetectionsByFrame,
    track: int | str,
    *,
    rng: random.Random,
    ensure_control_frame: bool = True,
    fallback: bool = True,
    compat: bool = False,
) -> list[int] | None:
    """Choose frames at random, the surest detections first, at least `min_distance` apart.

    Args:
        control_frame: the first choice when `ensure_control_frame` is set.
        fallback: fill up with other frames of `frames` where the rules leave too few.
        compat: as ConsisID: the distance is kept to the frame chosen before only, see also
            `frame_has_required_confidence` (with a track as text the rules find nothing, and all is filled
            up). By default it is kept to all chosen ones, also by those that fill up as long as possible.

    Returns:
        `num_frames` frames in the order of choice, or None when there are not enough.

    Raises:
        DataError: `frames` is empty and no control frame is asked for.
    """

    def surest(candidates: Sequence[int]) -> list[int]:
        for threshold in _THRESHOLDS:
            sure = [
                frame
                for frame in candidates
                if frame_has_required_confidence(bbox_data, frame, track, threshold, compat=compat)
            ]
            if sure:
                return sure
        return []

    if ensure_control_frame:
        chosen = [control_frame]
    elif frames:
        chosen = [rng.choice(surest(frames) or frames)]
    else:
        raise DataError(f"track {track}: no frame to choose a reference from")
    rest = [frame for frame in frames if frame != chosen[0]]
    rng.shuffle(rest)

    def far_enough() -> list[int]:
        kept_from = chosen[-1:] if compat else chosen
        return [frame for frame in rest if all(abs(frame - other) >= min_distance for other in kept_from)]

    while rest and len(chosen) < num_frames:
        sure = surest(far_enough())
        if not sure:
            break
        chosen.append(rng.choice(sure))
        rest.remove(chosen[-1])
    while not compat and fallback and len(chosen) < num_frames and (spread := far_enough()):
        chosen.append(spread[0])
        rest.remove(spread[0])
    if fallback and len(chosen) < num_frames:
        chosen += rest[: num_frames - len(chosen)]
    return chosen if len(chosen) >= num_frames else None


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """Chosen frames of a person: masks bool [H, W] and boxes (head, else face) of each, and the masks of the
    clip's frames."""

    frames: list[int]
    boxes: list[Box]
    masks: list[np.ndarray]
    clip_masks: list[np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """One person of a clip in ConsisID's annotations.

    Attributes:
        track: its id, the key of the tables, such as "1".
        bbox_data: detections of the clip, keyed by frame.
        corresponding_data: track -> region -> mask object id.
        control_sam2_frame: track -> region -> frame of the surest box.
        valid_frame: region -> frames with a mask, of this person.
        read_mask: (mask object id, frame) -> mask [H, W], not 0 where the object is.
    """

    track: str
    bbox_data: DetectionsByFrame
    corresponding_data: Mapping[str, Mapping[str, int]]
    control_sam2_frame: Mapping[str, Mapping[str, int]]
    valid_frame: Mapping[str, Sequence[int]]
    read_mask: Callable[[int, int], np.ndarray]

    def mask_object(self, region: str, *, compat: bool = False) -> int:
        """Id of the mask object that shows a region; compat: ConsisID's, which is the track's own number."""
        return int(self.track) if compat else self.entry("corresponding_data", region)

    def entry(self, table: str, region: str) -> int:
        """One number of `corresponding_data` or `control_sam2_frame`; DataError if there is none."""
        try:
            number: int = getattr(self, table)[self.track][region]
        except KeyError:
            raise DataError(f"{table} has no {region!r} of track {self.track!r}") from None
        return number


def select_mask_frames_from_index(
    person: Person,
    batch_frame: Collection[int],
    clip_frames: Sequence[int],
    *,
    rng: random.Random,
    min_distance: int = 3,
    min_frames: int = 1,
    max_frames: int = 5,
    mask_type: str = "face",
    control_mask_type: str = "head",
    dense_masks: bool = False,
    ensure_control_frame: bool = True,
    compat: bool = False,
) -> References:
    """Choose reference frames of a person among `batch_frame`, with masks and boxes.

    Only frames with a mask of both types and a detection count; the control frame is one of them wherever it
    lies when `ensure_control_frame` is set.

    Args:
        clip_frames: the frames of the example; their masks are read too when `dense_masks` is set.
        min_frames, max_frames: range of the random number of references.
        compat: as ConsisID: masks are those of the object whose id is the track's (another object for every
            track but "1"), and where a person has no head box in a frame, that of the reference before is
            taken. See also `select_frames_with_distance_constraint`.

    Raises:
        DataError: not enough frames, or no box of the person in a chosen frame.
    """
    missing = [region for region in (mask_type, control_mask_type) if region not in person.valid_frame]
    if missing:
        raise DataError(f"valid_frame of track {person.track!r} has no {missing[0]!r}")
    control_frame = person.entry("control_sam2_frame", control_mask_type)
    batch, controlled = set(batch_frame), set(person.valid_frame[control_mask_type])
    candidates = [
        frame
        for frame in person.valid_frame[mask_type]
        if frame in controlled and frame in batch and _has_detection(person, frame, compat)
    ]
    if ensure_control_frame and control_frame not in candidates:
        candidates.append(control_frame)
    number = rng.randint(min_frames, max_frames)
    frames = select_frames_with_distance_constraint(
        candidates,
        number,
        min_distance,
        control_frame,
        person.bbox_data,
        person.track,
        rng=rng,
        ensure_control_frame=ensure_control_frame,
        compat=compat,
    )
    if frames is None:
        raise DataError(
            f"track {person.track!r}: {number} reference frames asked for, {len(candidates)} can be used"
        )
    boxes: list[Box] = []
    for frame in frames:
        box = _reference_box(person, frame, boxes[-1] if boxes else None, compat)
        if box is None:
            raise DataError(f"track {person.track!r} has neither head nor face box in frame {frame}")
        boxes.append(box)
    shown = person.mask_object(mask_type, compat=compat)
    return References(
        frames,
        boxes,
        [person.read_mask(shown, frame) > 0 for frame in frames],
        [person.read_mask(shown, int(frame)) > 0 for frame in clip_frames] if dense_masks else [],
    )


def _has_detection(person: Person, frame: int, compat: bool) -> bool:
    if compat:
        return any(region in person.bbox_data.get(str(frame), {}) for region in ("head", "face"))
    return _reference_box(person, frame, None, compat) is not None


def _reference_box(person: Person, frame: int, before: Box | None, compat: bool) -> Box | None:
    objects = person.bbox_data.get(str(frame), {})
    for region in ("head", "face"):
        for item in objects.get(region, []):
            if item.get("new_track_id") == int(person.track):
                box: Box = item["box"]
                return box
        if compat and region in objects:
            return before
    return None
