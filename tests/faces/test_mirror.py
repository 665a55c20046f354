"""Mirrored points: left and right change places, and twice is not at all."""

import numpy as np
import pytest

from portraitgen.faces.backend import keypoints_from_ibug68
from portraitgen.faces.face_geometry import canonical_face
from portraitgen.faces.mirror import KEY_POINTS, mirror_boxes, mirror_order, mirror_points
from tests.synthetic import synthetic_landmarks


@pytest.mark.parametrize(("scheme", "count"), [("ibug68", 68), ("mediapipe478", 478)])
def test_twice_is_not_at_all(scheme, count):
    order = mirror_order(scheme)
    assert sorted(order) == list(range(count))
    assert order[order].tolist() == list(range(count))
    assert KEY_POINTS[KEY_POINTS].tolist() == list(range(5))


def test_a_symmetric_face_stays_what_it_is():
    """The drawn face looks straight ahead and is symmetric about its middle."""
    (landmarks,) = synthetic_landmarks(1, 64)
    middle = landmarks[27:31, 0].mean()
    turned = mirror_points(landmarks, width=2 * middle)[mirror_order("ibug68")]
    np.testing.assert_allclose(turned, landmarks, atol=1e-4)
    key_points = keypoints_from_ibug68(landmarks)
    turned = mirror_points(key_points, width=2 * middle)[KEY_POINTS]
    np.testing.assert_allclose(turned, key_points, atol=1e-4)
    vertices = canonical_face().vertices[:, :2]
    turned = mirror_points(vertices, width=0)[mirror_order("mediapipe478")[:468]]
    np.testing.assert_array_equal(turned, vertices)


def test_boxes_stay_boxes():
    boxes = mirror_boxes(np.array([[1.0, 2, 5, 9], [0, 0, 10, 10]]), width=10)
    assert boxes.tolist() == [[5, 2, 9, 9], [0, 0, 10, 10]]


def test_other_landmarks_cannot_be_mirrored():
    with pytest.raises(ValueError, match=r"'insightface106' cannot be mirrored; known: ibug68"):
        mirror_order("insightface106")
