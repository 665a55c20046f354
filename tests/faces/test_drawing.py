"""Drawings: where the landmarks are, in a colour for each part, the same at every scale."""

import cv2
import numpy as np
import pytest

from portraitgen.faces.drawing import _CURVES, draw_landmarks
from portraitgen.faces.mesh_drawing import draw_face_mesh
from tests.synthetic import synthetic_clip


@pytest.fixture
def landmarks() -> np.ndarray:
    """Two faces of 68 points: every part on a circle of its own, 100 px pictures."""
    parts = [(0, 17), (17, 22), (22, 27), (27, 31), (31, 36), (36, 42), (42, 48), (48, 60), (60, 68)]
    points = np.zeros((68, 2), np.float32)
    for place, (first, end) in enumerate(parts):
        angle = np.linspace(0, 1.6 * np.pi, end - first)
        centre = np.array([20 + 30 * (place % 3), 20 + 30 * (place // 3)])
        points[first:end] = centre + 8 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return np.stack([points, points + 3])


def test_layout(landmarks: np.ndarray) -> None:
    drawn = draw_landmarks(landmarks, image_size=(100, 100), canvas_size=(128, 160))
    assert drawn.shape == (2, 3, 128, 160)
    assert drawn.dtype == np.uint8
    assert drawn.flags.c_contiguous
    assert not np.array_equal(drawn[0], drawn[1])


def test_lines_lie_where_the_landmarks_are(landmarks: np.ndarray) -> None:
    drawn = draw_landmarks(landmarks, image_size=(100, 100), canvas_size=(512, 512))[0].max(axis=0)
    for x, y in landmarks[0] * 5.12:
        assert drawn[int(y), int(x)] > 60
    rows, columns = np.nonzero(drawn)
    assert rows.min() >= landmarks[0, :, 1].min() * 5.12 - 3
    assert columns.max() <= landmarks[0, :, 0].max() * 5.12 + 3


def test_every_part_has_its_own_colour(landmarks: np.ndarray) -> None:
    drawn = draw_landmarks(landmarks, image_size=(100, 100), canvas_size=(512, 512))[0]
    colours = set()
    for row in range(3):
        for column in range(3):
            cell = drawn[:, 154 * row + 26 : 154 * row + 180, 154 * column + 26 : 154 * column + 180]
            brightest = cell.reshape(3, -1)[:, cell.sum(axis=0).argmax()]
            colours.add(tuple(brightest.tolist()))
    assert len(colours) == 9


def test_eyes_and_lips_are_closed_loops_and_brows_are_not(landmarks: np.ndarray) -> None:
    drawn = draw_landmarks(landmarks, image_size=(100, 100), canvas_size=(512, 512))[0].max(axis=0)

    def middle_of_the_gap(first: int, last: int) -> int:
        x, y = (landmarks[0, first] + landmarks[0, last]) / 2 * 5.12
        return int(drawn[int(y), int(x)])

    for first, last in ((36, 41), (42, 47), (48, 59), (60, 67)):
        assert middle_of_the_gap(first, last) > 60
    for first, last in ((0, 16), (17, 21), (22, 26), (31, 35)):
        assert middle_of_the_gap(first, last) == 0


def test_small_movements_show_on_a_small_canvas(landmarks: np.ndarray) -> None:
    moved = landmarks + np.float32(0.3)
    still, shifted = (
        draw_landmarks(points, image_size=(100, 100), canvas_size=(64, 64)) for points in (landmarks, moved)
    )
    assert not np.array_equal(still, shifted)
    assert still.max() > 100, "lines are at least a pixel wide"


def test_missing_faces_draw_nothing(landmarks: np.ndarray) -> None:
    landmarks[1] = np.nan
    landmarks[0, 50] = np.nan
    drawn = draw_landmarks(landmarks, image_size=(100, 100), canvas_size=(100, 100))
    assert not drawn[1].any()
    assert drawn[0].any()
    assert not drawn[0][:, 70:90, 40:62].any(), "the outer lips, of which one point is missing"


def test_wrong_requests_are_refused(landmarks: np.ndarray) -> None:
    with pytest.raises(ValueError, match="known: ibug68"):
        draw_landmarks(landmarks, image_size=(9, 9), canvas_size=(9, 9), scheme="mp478")
    with pytest.raises(ValueError, match=r"\[T, 68, 2\]"):
        draw_landmarks(landmarks[0], image_size=(9, 9), canvas_size=(9, 9))


def test_face_meshes_are_drawn_as_aniportrait_draws_them() -> None:
    mesh = np.random.default_rng(0).uniform(0, 64, (2, 478, 2)).astype(np.float32)
    sizes = {"image_size": (64, 64), "canvas_size": (32, 32)}
    drawn = draw_landmarks(mesh, scheme="mediapipe478", **sizes)
    np.testing.assert_array_equal(drawn, draw_face_mesh(mesh, **sizes))
    assert drawn.any()


@pytest.mark.parametrize("seed", range(6))
def test_a_face_drawn_by_itself_is_what_is_drawn_on_the_whole_canvas(seed: int) -> None:
    """To the bit, wherever it lies, also across the border; into memory that held something else before."""
    rng = np.random.default_rng(seed)
    canvas_size = ((64, 64), (256, 384), (512, 512))[seed % 3]
    face = synthetic_clip("face", num_frames=8, size=64).tracks[0].landmarks
    landmarks = face * rng.uniform(0.2, 1.6) + rng.normal(0, 0.5, face.shape) + rng.uniform(-20, 40, 2)
    landmarks[2, 50] = landmarks[5] = np.nan
    out = np.full((8, 3, *canvas_size), 77, np.uint8)
    drawn = draw_landmarks(landmarks, image_size=(64, 64), canvas_size=canvas_size, out=out)
    assert drawn is out

    height, width = canvas_size
    points = (landmarks * np.array([width / 64, height / 64]) - 0.5) * 16
    expected = np.zeros((8, height, width, 3), np.uint8)
    for picture, positions in zip(expected, points, strict=True):
        for curve in _CURVES["ibug68"]:
            line = positions[curve.first : curve.last + 1]
            if np.isfinite(line).all():
                thickness = max(round(2 * min(canvas_size) / 512), 1)
                whole = [line.round().astype(np.int32)]
                cv2.polylines(picture, whole, curve.closed, curve.colour, thickness, cv2.LINE_AA, 4)
    np.testing.assert_array_equal(drawn, expected.transpose(0, 3, 1, 2))
    assert drawn.any()
