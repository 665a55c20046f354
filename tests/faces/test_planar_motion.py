"""Head motion and expression are told apart, carried over to other faces, and put together again."""

import numpy as np
import pytest
import torch

from portraitgen.faces.planar_motion import move_planar, planar_motion
from tests.synthetic import synthetic_landmarks

LIPS = slice(48, 68)


@pytest.fixture
def face() -> torch.Tensor:
    return torch.from_numpy(synthetic_landmarks(1, 256)[0]).double()


def turned(points: torch.Tensor, *, degrees: float, scale: float, shift: tuple[float, float]) -> torch.Tensor:
    """`points` turned about the origin of the picture."""
    angle = np.radians(degrees)
    matrix = scale * torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ matrix.T + torch.tensor(shift, dtype=torch.double)


def test_a_moving_head_is_no_expression(face):
    frames = torch.stack(
        [turned(face, degrees=7.0 * t, scale=1 + t / 10, shift=(3.0 * t, -2.0 * t)) for t in range(4)]
    )
    offsets, poses = planar_motion(frames, face, scheme="ibug68")
    assert offsets.abs().max() < 1e-10
    assert poses[0].abs().max() < 1e-10
    unit = (face[45] - face[36]).norm()
    # The origin of a face's coordinates, between the eyes, moves by the shift.
    moved = (frames[:, 36] + frames[:, 45] - face[36] - face[45]) / 2 / unit
    torch.testing.assert_close(poses[:, 4:].norm(dim=1), moved.norm(dim=1))
    assert poses[3, 0] == pytest.approx(1.3 * np.cos(np.radians(21)) - 1)


def test_a_moving_mouth_is_no_pose(face):
    frames = face.repeat(3, 1, 1)
    frames[1, LIPS, 1] += 5
    offsets, poses = planar_motion(frames, face, scheme="ibug68")
    assert poses.abs().max() < 1e-10
    unit = (face[45] - face[36]).norm()
    torch.testing.assert_close(offsets[1, LIPS, 1], (5 / unit).expand(20))
    assert offsets[:, :48].abs().max() < 1e-10
    assert offsets[[0, 2]].abs().max() < 1e-10


@pytest.mark.parametrize("scheme", ["ibug68", "mediapipe478"])
def test_taken_apart_and_put_together(scheme):
    random = torch.Generator().manual_seed(0)
    faces = torch.rand(2, 5, 68 if scheme == "ibug68" else 478, 2, generator=random, dtype=torch.double) * 99
    offsets, poses = planar_motion(faces, faces[:, 0], scheme=scheme)
    assert offsets.shape == faces.shape
    assert poses.shape == (2, 5, 6)
    torch.testing.assert_close(move_planar(faces[:, 0], offsets, poses, scheme=scheme), faces)


def test_motion_does_not_depend_on_place_size_and_roll_of_the_face(face):
    frames = torch.from_numpy(synthetic_landmarks(20, 256, seed=3)).double()
    other = turned(frames, degrees=30, scale=0.4, shift=(50.0, 7.0))
    for found, expected in zip(
        planar_motion(other, other[0], scheme="ibug68"),
        planar_motion(frames, frames[0], scheme="ibug68"),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_unknown_schemes(face):
    with pytest.raises(ValueError, match="'insightface106' have no known still points; known: ibug68"):
        planar_motion(face[None], face, scheme="insightface106")
