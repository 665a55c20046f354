"""A face or track of the wrong shape, dtype or order cannot be made."""

from dataclasses import replace

import numpy as np
import pytest

from portraitgen.faces.types import Face, FaceMesh, Track

FACE = Face(np.zeros(4, np.float32), 0.5, np.zeros((68, 2), np.float32), np.zeros((5, 2), np.float32))
TRACK = Track(
    frames=np.array([3, 4, 7], np.int64),
    boxes=np.zeros((3, 4), np.float32),
    scores=np.zeros(3, np.float32),
    landmarks=np.zeros((3, 68, 2), np.float32),
    keypoints=np.zeros((3, 5, 2), np.float32),
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("box", np.zeros(5, np.float32)),
        ("box", np.zeros(4)),
        ("landmarks", np.zeros((68, 3), np.float32)),
        ("keypoints", np.zeros((4, 2), np.float32)),
        ("embedding", np.zeros((1, 128), np.float32)),
    ],
)
def test_wrong_faces_name_the_field(field: str, value: np.ndarray) -> None:
    with pytest.raises(ValueError, match=rf"Face\.{field} must be float32"):
        replace(FACE, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("boxes", np.zeros((2, 4), np.float32)),
        ("scores", np.zeros((3, 1), np.float32)),
        ("landmarks", np.zeros((3, 68, 2))),
        ("keypoints", np.zeros((2, 5, 2), np.float32)),
        ("frames", np.array([3, 4, 7], np.int32)),
        ("frames", np.array([3, 3, 7], np.int64)),
        ("frames", np.array([-1, 3, 7], np.int64)),
    ],
)
def test_wrong_tracks_name_the_field(field: str, value: np.ndarray) -> None:
    with pytest.raises(ValueError, match=rf"Track\.{field} must be"):
        replace(TRACK, **{field: value})


def test_an_empty_track_is_none() -> None:
    empty = {
        name: getattr(TRACK, name)[:0] for name in ("frames", "boxes", "scores", "landmarks", "keypoints")
    }
    with pytest.raises(ValueError, match="at least one"):
        Track(**empty)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("points", np.zeros((468, 3), np.float32)),
        ("blendshapes", np.zeros(52)),
        ("pose", np.zeros((3, 4), np.float32)),
    ],
)
def test_wrong_meshes_name_the_field(field: str, value: np.ndarray) -> None:
    mesh = FaceMesh(np.zeros((478, 3), np.float32), np.zeros(52, np.float32), np.eye(4, dtype=np.float32))
    with pytest.raises(ValueError, match=rf"FaceMesh\.{field}"):
        replace(mesh, **{field: value})
