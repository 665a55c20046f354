"""The metric face and the head pose, against the camera that they assume."""

from pathlib import Path

import numpy as np
import pytest

from portraitgen.faces.face_geometry import canonical_face, face_geometry
from portraitgen.faces.head_pose import pose_matrices, project

SIZE = (360, 640)


def landmarks_of(vertices: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """The landmarks [468, 3] that an ideal detector returns for a face of this shape in this pose."""
    height, width = SIZE
    in_camera = vertices @ pose[:3, :3].T + pose[:3, 3]
    depth = -in_camera[:, 2:]
    plane = np.array([width / height, 1]) * 2 * np.tan(np.radians(63) / 2)
    positions = in_camera[:, :2] * [1, -1] / depth / plane + 0.5
    # Depth is given up to a shift, as a share of the picture's width at the head's distance.
    return np.concatenate([positions, depth / depth.mean() / plane[0] - 3], axis=1)


@pytest.mark.parametrize(
    "pose",
    [[0, 0, 0, 0, 0, -40], [20, -35, 10, 5, -3, -55], [-15, 60, -30, -9, 4, -90]],
)
def test_pose_and_shape_are_recovered(pose):
    matrix = pose_matrices(np.array(pose, float))
    vertices, found = face_geometry(landmarks_of(canonical_face().vertices, matrix), image_size=SIZE)
    np.testing.assert_allclose(found, matrix, atol=1e-9)
    np.testing.assert_allclose(vertices, canonical_face().vertices, atol=1e-9)


def test_an_expression_stays_in_the_face_and_does_not_turn_the_head():
    canonical = canonical_face()
    talking = canonical.vertices.copy()
    lower_lip = 17
    assert lower_lip not in canonical.anchors
    talking[lower_lip, 1] -= 1.5
    matrix = pose_matrices(np.array([5.0, 10, 0, 1, 2, -50]))

    vertices, found = face_geometry(landmarks_of(talking, matrix), image_size=SIZE)

    # The detector's depth is relative to the mean depth, which the lip moves a little.
    np.testing.assert_allclose(found, matrix, atol=0.05)
    np.testing.assert_allclose(vertices, talking, atol=0.05)


def test_landmarks_reappear_where_they_were():
    """For any landmarks: the metric face in its pose projects onto them."""
    random = np.random.default_rng(0)
    landmarks = landmarks_of(canonical_face().vertices, pose_matrices(np.array([9.0, 30, 5, 3, 1, -45])))
    landmarks += 0.003 * random.standard_normal(landmarks.shape)
    irises = np.zeros((10, 3))

    vertices, pose = face_geometry(np.concatenate([landmarks, irises]), image_size=SIZE)

    pixels = project(vertices, pose, image_size=SIZE)
    # A ten-thousandth off, as `project` says.
    np.testing.assert_allclose(pixels, landmarks[:, :2] * [SIZE[1], SIZE[0]], atol=0.03)
    # A rotation and a scale, no reflection.
    scale = np.cbrt(np.linalg.det(pose[:3, :3]))
    assert scale > 0
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, scale**2 * np.eye(3), atol=1e-9)


def test_the_packaged_face_is_mediapipes(shared: Path):
    with np.load(shared / "golden/aniportrait_canonical_face.npz", allow_pickle=False) as golden:
        assert np.array_equal(canonical_face().vertices, golden["canonical"])
        assert np.array_equal(canonical_face().anchors, golden["idx"])
        assert np.array_equal(canonical_face().weights, golden["w"])


@pytest.mark.parametrize("shape", [(68, 3), (478, 2), (1, 478, 3)])
def test_other_landmarks_are_refused(shape):
    with pytest.raises(ValueError, match="a face mesh must be"):
        face_geometry(np.zeros(shape), image_size=SIZE)
