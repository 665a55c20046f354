"""Measures of landmarks do what they say on a face made by hand, and do not depend on size or place."""

import numpy as np
import pytest

from portraitgen.faces.backend import keypoints_from_ibug68
from portraitgen.faces.measure import head_yaw, interocular_distance, landmark_error, mouth_opening


@pytest.fixture
def face() -> np.ndarray:
    points = np.random.default_rng(0).normal(size=(68, 2)) * 10 + 50
    points[36], points[45] = (30, 40), (70, 40)  # outer eye corners
    points[30] = (50, 55)  # nose tip
    points[61:64] = [(46, 70), (50, 70), (54, 70)]  # inner upper lip
    points[65:68] = [(54, 76), (50, 76), (46, 76)]  # inner lower lip
    return points


def test_values_of_a_known_face(face: np.ndarray) -> None:
    assert interocular_distance(face) == 40
    assert mouth_opening(face) == pytest.approx(6 / 40)
    keypoints = keypoints_from_ibug68(face)
    keypoints[:3] = [(35, 40), (65, 40), (50, 55)]
    assert head_yaw(keypoints) == pytest.approx(0)
    keypoints[2, 0] = 65
    assert head_yaw(keypoints) == pytest.approx(0.5)
    assert head_yaw(np.zeros((5, 2), np.float32)) == 0


def test_error_is_a_share_of_the_driving_eye_distance(face: np.ndarray) -> None:
    assert landmark_error(face, face) == 0
    assert landmark_error(face + (3, 4), face) == pytest.approx(5 / 40)
    clip = np.stack([face, face * 2])
    assert landmark_error(clip + (3, 4), clip).tolist() == pytest.approx([5 / 40, 5 / 80])
    missing = np.full_like(face, np.nan)
    assert np.isnan(landmark_error(missing, face))


def test_measures_ignore_size_place_and_roll(face: np.ndarray) -> None:
    angle = 0.4
    roll = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    face[30] = (58, 55)
    turned = face @ roll.T * 3 + (100, -20)
    assert mouth_opening(turned) == pytest.approx(mouth_opening(face))
    yaw = head_yaw(keypoints_from_ibug68(face))
    assert head_yaw(keypoints_from_ibug68(turned)) == pytest.approx(yaw, rel=1e-4)
    assert landmark_error(turned + (3, 4), turned) == pytest.approx(5 / 120)


def test_batches(face: np.ndarray) -> None:
    clip = np.tile(face, (2, 3, 1, 1))
    assert head_yaw(keypoints_from_ibug68(clip)).shape == (2, 3)
    for measure in (mouth_opening, interocular_distance):
        assert measure(clip).shape == (2, 3)
    assert landmark_error(clip, face).shape == (2, 3)
