"""Retargeted faces, head poses and pose templates against the official ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from portraitgen.faces.face_geometry import canonical_face
from portraitgen.faces.head_pose import pose_matrices, project
from portraitgen.faces.retarget import (
    cycle_template,
    fit_expression,
    neutral_frame,
    pose_template,
    retarget_expression,
    retarget_pose,
)


def test_official_retargeting(shared: Path):
    with np.load(shared / "golden/aniportrait_retarget.npz", allow_pickle=False) as file:
        golden = dict(file)
    cases = json.loads(str(golden["meta"]))
    assert len(cases) == 32
    for index, case in enumerate(cases):
        expected = {name: golden[f"{index}_{name}"] for name in ("mats", "proj")}
        neutral = neutral_frame(golden[f"{index}_bs"])
        assert neutral == case["min_bs_idx"]
        vertices = retarget_expression(golden[f"{index}_verts"], golden[f"{index}_refv"], neutral=neutral)
        poses = retarget_pose(golden[f"{index}_trans"], golden[f"{index}_refT"])
        np.testing.assert_allclose(poses, expected["mats"], atol=1e-12)
        pixels = project(vertices, poses, image_size=tuple(case["HW"]))
        np.testing.assert_allclose(pixels, expected["proj"], atol=1e-9)


def test_a_face_that_drives_itself_keeps_its_face_and_pose():
    random = np.random.default_rng(0)
    vertices = random.standard_normal((4, 468, 3))
    poses = pose_matrices(random.uniform(-50, 50, (4, 6)))
    np.testing.assert_allclose(retarget_expression(vertices, vertices[2], neutral=2), vertices, atol=1e-12)
    np.testing.assert_allclose(retarget_pose(poses, poses[0], window=1), poses, atol=1e-12)


def test_official_cycle(shared: Path):
    cases = json.loads((shared / "golden/aniportrait_pose_template.json").read_text())
    assert len(cases) == 20
    for case in cases:
        cycled = cycle_template(np.arange(case["n"]), case["seq_len"])
        assert cycled.tolist() == case["index"]


@pytest.mark.parametrize("length", [1, 2])
def test_cycle_of_the_shortest_templates(length):
    assert cycle_template(np.arange(length), 5).tolist() == [index % length for index in range(5)]


def test_template_is_relative_and_leads_back_to_the_motion():
    motion = np.zeros((40, 6))
    motion[:, 1] = np.linspace(0, 20, 40)
    motion[:, 3] = np.linspace(1, 3, 40)
    start = pose_matrices(np.array([10.0, -20, 5, 1, 2, -40]))
    template = pose_template(start @ pose_matrices(motion), fps=30, window=1)
    np.testing.assert_allclose(template[0], 0, atol=1e-9)
    # From the head's own first pose the template repeats the motion.
    moved = start @ pose_matrices(motion[0]) @ pose_matrices(template)
    np.testing.assert_allclose(moved, start @ pose_matrices(motion), atol=1e-9)


@pytest.mark.parametrize(("fps", "length"), [(60, 20), (59.94, 20), (24, 50), (30, 40)])
def test_template_is_resampled_to_30_fps(fps, length):
    turns = np.zeros((40, 6))
    turns[:, 0] = np.linspace(0, 300, 40)  # past 180 degrees
    template = pose_template(pose_matrices(turns), fps=fps, window=1)
    assert template.shape == (length, 6)
    np.testing.assert_allclose(template[:, 0], np.linspace(0, 300, length), atol=1e-6)


@pytest.mark.parametrize(("rate", "length"), [(23.976, 43), (29.97, 11), (30, 40)])
def test_a_template_at_its_own_rate_keeps_every_frame(rate, length):
    template = pose_template(np.tile(np.eye(4), (length, 1, 1)), fps=rate, target_fps=rate)
    assert len(template) == length


def test_the_expression_of_a_single_picture_comes_without_its_proportions():
    """A longer and flatter driving face, smiling: the reference smiles and keeps its proportions."""
    canonical = canonical_face()
    smiling = canonical.vertices.copy()
    corner = 61
    assert corner not in canonical.anchors
    smiling[corner] += [-0.5, 0.5, 0]
    driving = smiling @ np.diag([0.9, 1.2, 0.7]) + [0, 1, 0]
    np.testing.assert_allclose(fit_expression(driving, canonical.vertices), smiling, atol=1e-9)
