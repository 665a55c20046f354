"""The face in 3D as a feature: geometry of the faces that a backend finds, gaps filled, losses counted."""

from dataclasses import replace

import numpy as np
import pytest

from portraitgen.data.sample import DataError
from portraitgen.faces.face_geometry import NEAR, VERTICAL_FOV, canonical_face, face_geometry
from portraitgen.faces.head_pose import pose_matrices
from portraitgen.faces.types import Face, FaceMesh
from portraitgen.runs.prepare.features import face_mesh
from tests.synthetic import synthetic_clip

FRAMES = 20


def mesh_points(pose: np.ndarray) -> np.ndarray:
    """Landmarks as MediaPipe gives them, [478, 3], of the canonical face in a pose, in a square picture."""
    x, y, z = (canonical_face().vertices @ pose[:3, :3].T + pose[:3, 3]).T
    side = 2 * NEAR * np.tan(np.radians(VERTICAL_FOV) / 2)
    depth = -z / -z.mean()
    points = np.stack([NEAR * x / -z / side + 0.5, 0.5 - NEAR * y / -z / side, NEAR * (depth - 1) / side])
    return np.pad(points.T, ((0, 10), (0, 0))).astype(np.float32)


class HeadThatTurns:
    """Finds in frame t a head at pose t, and a bystander's; nobody in the frames `blind`."""

    def __init__(self, boxes: np.ndarray, blind: tuple[int, ...] = ()) -> None:
        turns = np.zeros((FRAMES, 6))
        turns[:, 1], turns[:, 5] = np.linspace(-20, 20, FRAMES), -40
        self.poses = pose_matrices(turns)
        self._boxes, self._blind, self._frame = boxes, blind, -1

    def detect(self, image: np.ndarray, *, embed: bool = False) -> list[Face]:
        self._frame += 1
        if self._frame in self._blind:
            return []
        mesh = FaceMesh(
            mesh_points(self.poses[self._frame]), np.zeros(52, np.float32), np.eye(4, dtype=np.float32)
        )
        points = np.zeros((478, 2), np.float32)
        bystander = Face(np.array([0, 0, 4, 4], np.float32), 0.9, points, points[:5])
        return [bystander, Face(self._boxes[self._frame], 0.8, points, points[:5], mesh=mesh)]


@pytest.fixture
def sample():
    return synthetic_clip("one", num_frames=FRAMES, size=64)


@pytest.fixture
def backend(sample, monkeypatch):
    def use(*blind: int) -> HeadThatTurns:
        head = HeadThatTurns(sample.tracks[0].boxes, blind)
        monkeypatch.setattr(face_mesh, "_backend", lambda model: head)
        return head

    return use


def test_vertices_and_poses_are_those_of_the_face_that_is_tracked(sample, backend):
    head = backend()
    vertices = face_mesh.FaceMeshes("model")(sample)
    assert vertices.shape == (FRAMES, 468, 3)
    assert vertices.dtype == np.float32
    np.testing.assert_allclose(vertices, np.repeat(canonical_face().vertices[None], FRAMES, 0), atol=0.2)
    expected, _ = face_geometry(mesh_points(head.poses[3]), image_size=(64, 64))
    np.testing.assert_allclose(vertices[3], expected, atol=1e-4)
    head = backend()
    poses = face_mesh.HeadPoses("model")(sample)
    np.testing.assert_allclose(poses[:, :3, :3], head.poses[:, :3, :3], atol=0.02)
    np.testing.assert_allclose(poses[:, 2, 3], -40, atol=1)


def test_gaps_are_filled_and_a_clip_with_many_is_left_out(sample, backend):
    backend(0, 7)
    poses = face_mesh.HeadPoses("model")(sample)
    assert np.isfinite(poses).all()
    np.testing.assert_allclose(poses[7], (poses[6] + poses[8]) / 2, atol=1e-6)
    assert np.array_equal(poses[0], poses[1])
    backend(0, 7, 9)
    with pytest.raises(DataError, match="finds no face in 3 of 20 frames of one-000000000"):
        face_mesh.HeadPoses("model")(sample)


def test_frames_in_which_nobody_is_tracked_do_not_count_as_found(sample, backend):
    backend()
    boxes = sample.tracks[0].boxes.copy()
    boxes[4] = np.nan
    landmarks, valid = sample.tracks[0].landmarks, np.arange(FRAMES) != 4
    track = replace(sample.tracks[0], boxes=boxes, landmarks=landmarks, valid=valid)
    vertices = face_mesh.FaceMeshes("model")(replace(sample, tracks=(track,)))
    np.testing.assert_allclose(vertices[4], (vertices[3] + vertices[5]) / 2, atol=1e-5)
