"""One face follows another: in 3D the reference keeps its shape, in 2D its place and size."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from portraitgen.faces.face_geometry import VERTICAL_FOV, canonical_face
from portraitgen.faces.head_pose import pose_matrices, project
from portraitgen.faces.landmark_sequence import LandmarkSequence
from portraitgen.faces.transfer import nearest_in_pose, shifted_inside, transfer_motion

SIZE = (360, 640)


def seen(vertices: np.ndarray, poses: np.ndarray, *, image_size=SIZE, expression=None) -> LandmarkSequence:
    """What an ideal MediaPipe finds of faces [T, 468, 3] in poses [T, 4, 4]."""
    height, width = image_size
    in_camera = vertices @ poses[:, :3, :3].transpose(0, 2, 1) + poses[:, None, :3, 3]
    depth = -in_camera[..., 2:]
    plane = np.array([width / height, 1]) * 2 * np.tan(np.radians(VERTICAL_FOV) / 2)
    places = in_camera[..., :2] * [1, -1] / depth / plane + 0.5
    mesh = np.concatenate([places, depth / depth.mean(axis=1, keepdims=True) / plane[0] - 3], axis=-1)
    mesh = np.pad(mesh, ((0, 0), (0, 10), (0, 0)), constant_values=0.5).astype(np.float32)
    blendshapes = np.zeros((len(mesh), 52), np.float32)
    blendshapes[:, 0] = 1  # "_neutral" says nothing
    blendshapes[:, 1] = np.arange(len(mesh)) if expression is None else expression
    return LandmarkSequence(
        points=(mesh[..., :2] * [width, height]).astype(np.float32),
        scheme="mediapipe478",
        image_size=image_size,
        fps=Fraction(25),
        found=np.ones(len(mesh), bool),
        mesh=mesh,
        blendshapes=blendshapes,
    )


@pytest.fixture
def faces():
    """A driving face that opens its mouth and turns, and a wider reference face."""
    canonical = canonical_face()
    poses = np.zeros((5, 6))
    poses[:, 1] = np.linspace(0, 20, 5)
    poses[:, 3] = np.linspace(0, 2, 5)
    poses[:, 5] = -40
    vertices = np.repeat(canonical.vertices[None], 5, axis=0)
    vertices[:, 17, 1] -= np.linspace(0, 1, 5)
    wide = canonical.vertices.copy()
    wide[~np.isin(np.arange(468), canonical.anchors), 0] *= 1.1
    return vertices, poses, wide


@pytest.mark.parametrize("raw", [False, True])
def test_the_reference_keeps_its_shape_and_takes_expression_and_turns(faces, raw):
    vertices, poses, wide = faces
    home = pose_matrices(np.array([[0.0, 0, 0, 3, -1, -50]]))
    driving = seen(vertices, pose_matrices(poses))
    reference = seen(wide[None], home, image_size=(512, 512))
    moved = transfer_motion(driving, reference, raw=raw, smooth_frames=1)
    expected_poses = poses.copy()
    expected_poses[:, 3:] += [3, -1, -10]
    expected = project(vertices - vertices[0] + wide, pose_matrices(expected_poses), image_size=(512, 512))
    assert moved.shape == (5, 468, 2)
    np.testing.assert_allclose(moved, expected, atol=0.5)


def test_a_head_that_drifts_stays_in_the_picture(faces):
    """It begins at the border of the driving video; AniPortrait's head then leaves the photo's picture."""
    vertices, poses, wide = faces
    poses = np.tile(poses[:1], (5, 1))
    poses[:, 3] = np.linspace(0, 24, 5)
    poses[0, 1] = 25  # turned away, so that another frame is nearest to the photo
    driving = seen(vertices, pose_matrices(poses))
    home = pose_matrices(np.array([[0.0, 0, 0, 0, 0, -40]]))
    reference = seen(wide[None], home, image_size=SIZE)
    moved = transfer_motion(driving, reference, smooth_frames=1)
    height, width = SIZE
    assert moved.min() >= -1e-3
    assert (moved <= np.array([width, height]) + 1e-3).all()
    travelled = moved[4, :, 0].mean() - moved[1, :, 0].mean()
    unbound = seen(vertices, pose_matrices(poses)).points[:, :468]
    assert travelled == pytest.approx(unbound[4, :, 0].mean() - unbound[1, :, 0].mean(), rel=0.05), "as far"


def test_motion_wider_than_the_picture_leaves_it_on_both_sides():
    landmarks = np.array([[[-50.0, 20]], [[170.0, 30]]])
    np.testing.assert_allclose(shifted_inside(landmarks, (100, 100)), [[[-60, 20]], [[160, 30]]])
    np.testing.assert_allclose(shifted_inside(landmarks[1:], (100, 100)), [[[100, 30]]])
    np.testing.assert_allclose(shifted_inside(landmarks[1:], (100, 200)), landmarks[1:])


def test_the_least_expression_is_the_neutral_one(faces):
    vertices, poses, wide = faces
    reference = seen(wide[None], pose_matrices(poses[:1]))
    driving = seen(vertices, pose_matrices(poses), expression=[3, 2, 0, 1, 4])
    from_third = transfer_motion(driving, reference, smooth_frames=1)
    from_first = transfer_motion(seen(vertices, pose_matrices(poses)), reference, smooth_frames=1)
    lip = from_third[:, 17, 1] - from_first[:, 17, 1]
    assert (lip < -3).all(), "the mouth is half open in the third frame, which now counts as closed"
    still = np.delete(np.arange(468), 17)
    np.testing.assert_allclose(from_third[:, still], from_first[:, still], atol=0.2)


def test_a_single_picture_gives_its_own_expression(faces):
    """No frame of it is neutral."""
    vertices, poses, wide = faces
    reference = seen(wide[None], pose_matrices(poses[:1]))
    closed, opened = (
        transfer_motion(seen(face[None], pose_matrices(poses[:1])), reference) for face in vertices[[0, 4]]
    )
    assert opened[0, 17, 1] - closed[0, 17, 1] > 5


def test_without_depth_the_first_frame_is_laid_over_the_reference():
    random = np.random.default_rng(0)
    points = random.uniform(0, 100, (4, 68, 2)).astype(np.float32)
    driving = LandmarkSequence(
        points=points,
        scheme="ibug68",
        image_size=(100, 100),
        fps=Fraction(25),
        found=np.ones(4, bool),
    )
    reference = replace(driving, points=points[:1] * 2 + 7, found=np.ones(1, bool))
    np.testing.assert_allclose(transfer_motion(driving, reference), points * 2 + 7, atol=1e-3)
    with pytest.raises(ValueError, match="faces=mediapipe"):
        transfer_motion(driving, reference, how="3d")
    with pytest.raises(ValueError, match="ibug68, those of the reference other"):
        transfer_motion(driving, replace(reference, scheme="other"))
    with pytest.raises(ValueError, match="ibug68: the driving face has 10 points, the reference's 68"):
        transfer_motion(replace(driving, points=points[:, :10]), reference)


def in_2d(points: np.ndarray, *, size=(200, 200)) -> LandmarkSequence:
    return LandmarkSequence(
        points=points.astype(np.float32),
        scheme="ibug68",
        image_size=size,
        fps=Fraction(25),
        found=np.ones(len(points), bool),
    )


@pytest.mark.parametrize("degrees", [18, -40])
def test_a_head_that_is_turned_in_the_first_frame_alone_does_not_tilt_the_clip(degrees):
    rng = np.random.default_rng(0)
    face = rng.normal(0, 20, (68, 2))
    turn = np.radians(degrees)
    turned = face @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    moving = np.stack([turned, *(face + rng.normal(0, 0.2, (4, 68, 2)))]) + 100
    still = face * 1.3 + 90
    assert nearest_in_pose(moving, still) > 0
    moved = transfer_motion(in_2d(moving), in_2d(still[None]))
    assert np.abs(moved[1:] - still).max() < 3
