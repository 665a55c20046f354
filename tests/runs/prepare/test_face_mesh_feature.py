"""The face in 3D as a feature: geometry of the faces that a backend finds, gaps filled, losses counted."""

from dataclasses import replace

import numpy as np
import pytest

from portraitgen.data.sample import DataError
from portraitgen.faces.face_geometry import canonical_face, face_geometry
from portraitgen.runs.prepare.features import face_mesh
from tests.synthetic import synthetic_clip
from tests.turning_head import TurningHead, mesh_points

FRAMES = 20


@pytest.fixture
def sample():
    return synthetic_clip("one", num_frames=FRAMES, size=64)


@pytest.fixture
def backend(sample, monkeypatch):
    def use(*blind: int) -> TurningHead:
        head = TurningHead(sample.tracks[0].boxes, blind)
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
