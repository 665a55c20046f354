"""What holds for faces whichever backend found them."""

import numpy as np
import pytest

from portraitgen.faces.backend import keypoints_from_ibug68, largest_face
from portraitgen.faces.types import Face


def face(side: float, score: float) -> Face:
    box = np.array([0, 0, side, side], np.float32)
    return Face(box, score, np.zeros((68, 2), np.float32), np.zeros((5, 2), np.float32))


def test_largest_face_is_by_area_not_by_score() -> None:
    small, large = face(10, 2.0), face(30, 0.1)
    assert largest_face([small, large]) is large
    assert largest_face([]) is None


def test_key_points_follow_arcface_order() -> None:
    landmarks = np.arange(2 * 68 * 2, dtype=np.float32).reshape(2, 68, 2)
    points = keypoints_from_ibug68(landmarks)
    assert points.shape == (2, 5, 2)
    assert points.dtype == np.float32
    expected = [38.5, 44.5, 30, 48, 54]  # mean indices of the landmarks that each point comes from
    assert points[0, :, 0].tolist() == pytest.approx([2 * index for index in expected])
