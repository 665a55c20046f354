"""Clips that ConsisID's detectors have looked at, and nobody since: who is who, and which frames can be
used.
"""

from math import ceil

import numpy as np

from portraitgen.data.formats.consisid.best_boxes import find_max_confidence_bbox, mask_objects
from portraitgen.data.formats.consisid.detections import (
    REGIONS,
    FrameDetections,
    estimate_num_people,
    find_frames_with_fewer_person_boxes,
    fix_bbox_with_pose,
)
from portraitgen.data.formats.consisid.segments import (
    extract_useful_frames,
    extract_valid_segments_from_filtered_data,
    merge_segments,
)
from portraitgen.data.formats.consisid.tracks import assign_track_ids

# Shares of a clip that may be without a face, or without an eye and the nose, in a row: those of ConsisID's
# step 2.
_FACE_HOLES, _POSE_HOLES = 0.05, 0.025


def with_people(frames: FrameDetections) -> FrameDetections:
    """The detections with `new_track_id`; as they are where somebody has given one already.

    ConsisID's step 3: persons that the pose detector alone has seen are put in, then all are followed.

    Raises:
        DataError: in no frame do the detectors agree on a number of people.
    """
    items = (item for objects in frames.values() for region in REGIONS for item in objects.get(region, []))
    if any("new_track_id" in item for item in items):
        return frames
    missed = find_frames_with_fewer_person_boxes(frames, estimate_num_people(frames))
    return assign_track_ids(fix_bbox_with_pose(frames, missed))


def surest_frames(frames: FrameDetections) -> dict[str, dict[str, int]]:
    """ConsisID's `control_sam2_frame`: person -> region -> the frame from which its mask is followed."""
    best, _ = find_max_confidence_bbox(frames, max_people=max(1, estimate_num_people(frames)))
    return mask_objects(best)[1]


def usable_frames(frames: FrameDetections, num_frames: int) -> np.ndarray:
    """bool [T]: those in the stretches that ConsisID's step 2 would cut out, of any length.

    Stretches show a face and, where poses were detected, somebody's nose and an eye, with short holes. A
    frame without a detection of its own is in no track, whatever stands here.
    """
    dense = {str(frame): frames.get(str(frame), {}) for frame in range(num_frames)}
    stretches = extract_useful_frames(dense, min_valid_frames=1, tolerance=ceil(_FACE_HOLES * num_frames))
    poses = {frame: objects["pose"] for frame, objects in dense.items() if "pose" in objects}
    if poses:
        seen = extract_valid_segments_from_filtered_data(
            poses, min_valid_frames=1, tolerance=ceil(_POSE_HOLES * num_frames)
        )
        stretches = merge_segments(stretches, seen)
    usable = np.zeros(num_frames, bool)
    for stretch in stretches:
        usable[stretch] = True
    return usable
