from fractions import Fraction

import cv2
import numpy as np
import pytest

from portraitgen.data.prepare.scores import picture_scores, track_scores
from portraitgen.faces.types import Track


def moving_track(step, frames=range(11)):
    frames = np.array(frames, np.int64)
    shift = np.stack([step * frames, np.zeros(len(frames))], axis=1)[:, None]
    keypoints = np.tile([[10, 20], [30, 20], [24, 30], [14, 36], [28, 36]], (len(frames), 1, 1))
    return Track(
        frames=frames,
        boxes=(np.tile([0, 0, 40, 40], (len(frames), 1)) + np.tile(shift[:, 0], 2)).astype(np.float32),
        scores=np.linspace(0, 1, len(frames)).astype(np.float32),
        landmarks=np.zeros((len(frames), 68, 2), np.float32),
        keypoints=(keypoints + shift).astype(np.float32),
    )


def test_scores_of_a_face_that_moves_evenly():
    scores = track_scores(moving_track(2.0), num_frames=11, fps=Fraction(10), side=80)
    assert scores == pytest.approx(
        {
            "min_face": 40,
            "face_share": 0.5,
            "coverage": 1,
            "detection": 0.5,
            # 20 pixels in a second are half a face.
            "head_motion": 0.5,
            # The nose tip is 4 pixels off the middle of eyes that are 20 apart.
            "yaw_max": 0.2,
        }
    )


def test_motion_and_coverage_with_missing_frames():
    scores = track_scores(moving_track(2.0, frames=[0, 1, 5, 10]), num_frames=11, fps=Fraction(10), side=80)
    assert scores["head_motion"] == pytest.approx(0.5)
    assert scores["coverage"] == pytest.approx(4 / 11)


def test_single_frame_does_not_move():
    assert track_scores(moving_track(2.0, [3]), num_frames=1, fps=Fraction(10), side=80)["head_motion"] == 0


def test_blur_lowers_sharpness_and_leaves_brightness():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    box = np.array([8, 8, 56, 56], np.float32)
    sharp, blurred = picture_scores(image, box), picture_scores(cv2.GaussianBlur(image, (0, 0), 2), box)
    assert blurred["sharpness"] < sharp["sharpness"] / 10
    assert blurred["brightness"] == pytest.approx(sharp["brightness"], abs=0.02)


def test_only_the_face_counts():
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:48, 16:48] = 255
    assert picture_scores(image, np.array([16, 16, 48, 48], np.float32)) == {"sharpness": 0, "brightness": 1}


def test_face_outside_has_no_picture_scores():
    image = np.zeros((64, 64, 3), np.uint8)
    assert picture_scores(image, np.array([70, 10, 90, 30], np.float32)) == {}
