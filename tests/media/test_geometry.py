"""Boxes and affine maps against hand-made cases and invariants."""

import numpy as np
import pytest

from portraitgen.media.geometry import (
    apply_affine,
    box_area,
    box_containment,
    box_iou,
    expand_box,
    similarity_transform,
    square_box,
    union_box,
    warp_affine,
)

UNIT = np.array([0.0, 0.0, 10.0, 10.0], np.float32)


def test_overlap_measures() -> None:
    half = np.array([5.0, 0.0, 15.0, 10.0], np.float32)
    inside = np.array([2.0, 2.0, 4.0, 4.0], np.float32)
    away = np.array([20.0, 20.0, 30.0, 30.0], np.float32)
    empty = np.zeros(4, np.float32)
    assert box_area(np.stack([UNIT, inside, empty])).tolist() == [100, 4, 0]
    assert box_iou(UNIT, half) == pytest.approx(1 / 3)
    assert box_iou(UNIT, away) == 0
    assert box_iou(empty, empty) == 0
    assert box_containment(UNIT, inside) == 1
    assert box_containment(UNIT, half) == pytest.approx(0.5)
    pairs = box_iou(np.stack([UNIT, half])[:, None], np.stack([UNIT, half, away])[None])
    assert pairs.shape == (2, 3)
    np.testing.assert_allclose(np.diag(pairs[:, :2]), 1)


def test_union_leaves_out_frames_without_a_box() -> None:
    boxes = np.array([[1, 2, 3, 4], [np.nan] * 4, [0, 3, 2, 9]], np.float32)
    assert union_box(boxes).tolist() == [0, 2, 3, 9]
    with pytest.raises(ValueError, match="at least one"):
        union_box(boxes[1:2])


def test_expanding_keeps_the_centre() -> None:
    assert expand_box(UNIT, 2.0).tolist() == [-5, -5, 15, 15]
    assert expand_box(np.stack([UNIT, UNIT + 4]), 0.5)[1].tolist() == [6.5, 6.5, 11.5, 11.5]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([10, 10, 30, 40], [5, 10, 35, 40]),
        ([-20, 5, 10, 25], [0, 0, 30, 30]),
        ([90, 70, 120, 95], [70, 50, 100, 80]),
        ([-50, -50, 300, 300], [20, 0, 100, 80]),
        ([10.2, 10.2, 10.3, 10.3], [10, 10, 11, 11]),
    ],
    ids=["tall box", "left edge", "corner", "larger than the picture", "tiny"],
)
def test_square_crop_stays_inside(box: list[float], expected: list[float]) -> None:
    square = square_box(np.array(box, np.float32), image_size=(80, 100))
    assert square.dtype == np.float32
    assert square.tolist() == expected


def test_similarity_is_recovered_and_never_mirrors() -> None:
    generator = np.random.default_rng(3)
    points = generator.normal(size=(5, 2)) * 20
    angle, scale = 0.7, 1.8
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.concatenate([linear, [[3.0], [-8.0]]], axis=1)
    np.testing.assert_allclose(similarity_transform(points, apply_affine(points, matrix)), matrix, atol=1e-9)
    mirrored = similarity_transform(points, points * [-1, 1])
    assert np.linalg.det(mirrored[:, :2]) > 0


def test_similarity_is_the_least_squares_one() -> None:
    generator = np.random.default_rng(4)
    source, target = generator.normal(size=(2, 6, 2))
    best = similarity_transform(source, target)

    def error(matrix: np.ndarray) -> float:
        return float(((apply_affine(source, matrix) - target) ** 2).sum())

    a, b = best[0, 0], best[1, 0]
    np.testing.assert_allclose(best[:, :2], [[a, -b], [b, a]], atol=1e-12)
    for da, db, dx, dy in generator.normal(size=(50, 4)) * 1e-3:
        moved = np.array([[a + da, -b - db, best[0, 2] + dx], [b + db, a + da, best[1, 2] + dy]])
        assert error(moved) >= error(best)


def test_impossible_similarities_are_refused() -> None:
    points = np.zeros((3, 2))
    with pytest.raises(ValueError, match="coincide"):
        similarity_transform(points, np.ones((3, 2)))
    with pytest.raises(ValueError, match="at least 2"):
        similarity_transform(points[:1], points[:1])


def test_warping_moves_pixels_where_points_go() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[5, 7] = 255
    matrix = np.array([[1.0, 0, 4], [0, 1, 9]])
    warped = warp_affine(image, matrix, (25, 40))
    assert warped.shape == (25, 40, 3)
    column, row = apply_affine(np.array([7.5, 5.5]), matrix)
    assert (column, row) == (11.5, 14.5)
    assert warped[14, 11].tolist() == [255] * 3
    assert warped.sum() == 255 * 3


def test_warping_has_no_half_pixel_shift() -> None:
    """A blob enlarged three times about a corner has its centre of mass where the matrix sends it."""
    image = np.zeros((20, 30, 1), np.uint8)
    image[4:7, 10:14] = 200
    matrix = np.array([[3.0, 0, 0], [0, 3, 0]])
    warped = warp_affine(image, matrix, (60, 90)).reshape(60, 90).astype(float)
    rows, columns = np.mgrid[:60, :90] + 0.5
    centre = np.array([(columns * warped).sum(), (rows * warped).sum()]) / warped.sum()
    np.testing.assert_allclose(centre, apply_affine(np.array([12.0, 5.5]), matrix), atol=0.02)
