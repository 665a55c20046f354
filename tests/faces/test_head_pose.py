"""Pose conversions, smoothing and projection against the official ones, and where ours go further."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from portraitgen.faces.head_pose import pose_matrices, pose_vectors, project, smooth, smooth_poses


@pytest.fixture(scope="module")
def golden(shared: Path) -> Mapping[str, np.ndarray]:
    with np.load(shared / "golden/aniportrait_pose_utils.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def settings(golden) -> dict[str, list]:
    return json.loads(str(golden["meta"]))


@pytest.mark.filterwarnings("ignore:Gimbal lock")
def test_poses_there_and_back(golden):
    count = sum(name.endswith("_m") for name in golden)
    assert count == 20
    for index in range(count):
        pose = np.concatenate([golden[f"eul{index}_e"], golden[f"eul{index}_t"]])
        matrix = golden[f"eul{index}_m"]
        back = np.concatenate([golden[f"eul{index}_e2"], golden[f"eul{index}_t2"]])
        np.testing.assert_allclose(pose_matrices(pose), matrix, atol=1e-12)
        np.testing.assert_allclose(pose_vectors(matrix), back, atol=1e-9)


def test_poses_of_any_leading_shape_and_scale():
    poses = np.random.default_rng(0).uniform(-60, 60, (2, 3, 6))
    matrices = pose_matrices(poses)
    assert matrices.shape == (2, 3, 4, 4)
    matrices[..., :3, :3] *= 1.3
    np.testing.assert_allclose(pose_vectors(matrices), poses, atol=1e-9)


def test_smoothing(golden, settings):
    for index, case in enumerate(settings["smooth"]):
        sequence, expected = golden[f"smooth{index}_in"], golden[f"smooth{index}_out"]
        smoothed = smooth(sequence, case["window"])
        if expected.dtype.kind == "i":  # officially, whole numbers stay whole
            smoothed = smoothed.astype(expected.dtype)
        assert np.array_equal(smoothed, expected), case
    assert len(settings["smooth"]) == 16


def test_smoothing_of_turns_past_180_degrees():
    poses = np.zeros((6, 6))
    poses[:, 0] = [170, 174, 178, -178, -174, -170]
    smoothed = smooth_poses(poses, 3)
    np.testing.assert_allclose(smoothed[:, 0], [172, 174, 178, 182, 186, 188])
    assert not smoothed[:, 1:].any()


def test_projection(golden, settings):
    for index, size in enumerate(settings["proj"]):
        points, matrices = golden[f"proj{index}_pts"], golden[f"proj{index}_mats"]
        image_size = (size[0], size[1])
        moved = golden[f"proj{index}_T"] @ pose_matrices(golden[f"proj{index}_pv"])
        for transforms, name in ((moved, "out"), (matrices, "out_trans")):
            pixels = project(points, transforms, image_size=image_size)
            np.testing.assert_allclose(pixels, golden[f"proj{index}_{name}"], atol=1e-9)
    assert len(settings["proj"]) == 12
