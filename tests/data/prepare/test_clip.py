import dataclasses

import numpy as np
import pytest

from portraitgen.data.prepare.clip import plan_clips
from portraitgen.faces.types import Face, Track, Trail
from tests.data.prepare.small_settings import small_settings

SETTINGS = small_settings(margin=0.5, photo_size=128)
IMAGE_SIZE = (200, 400)


def track(frames, left=100.0, step=0.0):
    frames = np.array(frames, np.int64)
    lefts = left + step * (frames - frames[0])
    boxes = np.stack([lefts, np.full(len(frames), 80), lefts + 40, np.full(len(frames), 120)], axis=1)
    centres = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    return Track(
        frames=frames,
        boxes=boxes.astype(np.float32),
        scores=np.ones(len(frames), np.float32),
        landmarks=np.repeat(centres, 68, axis=1).astype(np.float32),
        keypoints=np.repeat(centres, 5, axis=1).astype(np.float32),
    )


def planned(*tracks, **changes):
    """The clips of the tracks, the faces of all frames, and the number of pieces that were too short."""
    faces = [[] for _ in range(1 + max(track.frames[-1] for track in tracks))]
    trails = []
    for each in tracks:
        rows = zip(each.frames, each.boxes, each.landmarks, each.keypoints, strict=True)
        places = []
        for frame, box, landmarks, keypoints in rows:
            places.append(len(faces[frame]))
            faces[frame].append(Face(box, 1.0, landmarks, keypoints))
        trails.append(Trail(each.frames, np.array(places)))
    settings = dataclasses.replace(SETTINGS, **changes)
    clips, too_short = plan_clips(trails, faces, image_size=IMAGE_SIZE, settings=settings)
    return clips, faces, too_short


def test_long_track_is_cut_into_equal_clips():
    clips, faces, too_short = planned(track(range(5, 30)))
    assert [(clip.start, clip.stop) for clip in clips] == [(5, 13), (13, 22), (22, 30)]
    assert too_short == 0
    covered = np.concatenate([clip.start + clip.cropped(clip.trail.track(faces)).frames for clip in clips])
    assert np.array_equal(covered, np.arange(5, 30))


def test_clip_begins_and_ends_with_a_face():
    (clip,), faces, _ = planned(track([3, 4, 6, 7, 9]))
    assert (clip.start, clip.stop) == (3, 10)
    assert clip.valid(clip.cropped(clip.trail.track(faces))).tolist() == [
        True,
        True,
        False,
        True,
        True,
        False,
        True,
    ]


def test_short_tracks_are_counted():
    clips, _, too_short = planned(track([0, 1, 2]), track(range(4), left=300))
    assert [clip.person for clip in clips] == [2]
    assert too_short == 1


def test_people_are_numbered_by_time_then_from_left_to_right():
    # The tracker gives the longest first.
    clips, faces, _ = planned(
        track(range(2, 10), left=20), track(range(5), left=300), track(range(5), left=200)
    )
    assert [(clip.person, clip.start, float(clip.trail.track(faces).boxes[0, 0])) for clip in clips] == [
        (1, 0, 200),
        (2, 0, 300),
        (3, 2, 20),
    ]


def test_landmarks_are_in_pixels_of_the_crop():
    (clip,), faces, _ = planned(track(range(6)))
    assert clip.crop.width == 80
    cropped = clip.cropped(clip.trail.track(faces))
    assert cropped.landmarks == pytest.approx(32)
    assert cropped.boxes[0] == pytest.approx([16, 16, 48, 48])


def test_frames_whose_face_leaves_the_crop_are_not_valid():
    # The face crosses 400 pixels of width, the crop can only be 200 wide.
    (clip,), faces, _ = planned(track(range(10), left=0, step=40))
    track_there = clip.trail.track(faces)
    points = track_there.keypoints[:, 0, 0]
    inside = (points >= clip.crop.x) & (points < clip.crop.x + clip.crop.width)
    assert clip.crop.width == 200
    assert 0 < inside.sum() < 10
    assert np.array_equal(clip.valid(clip.cropped(track_there)), inside)
    assert planned(track(range(10), left=0, step=40), min_frames=8)[::2] == ([], 1)
