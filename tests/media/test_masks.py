"""Run-length masks are lossless; drawn masks cover what they should."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from portraitgen.media.masks import (
    decode_rle,
    decode_rle_batch,
    ellipse_mask,
    encode_rle,
    encode_rle_batch,
    hull_mask,
    pack_runs,
    unpack_runs,
)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_run_lengths_are_lossless(share: float) -> None:
    mask = np.random.default_rng(0).random((37, 53)) < share
    runs = encode_rle(mask)
    assert runs.dtype == np.uint32
    np.testing.assert_array_equal(decode_rle(runs, (37, 53)), mask)


def test_run_lengths_begin_outside() -> None:
    assert encode_rle(np.array([[0, 1, 1], [1, 0, 0]])).tolist() == [1, 3, 2]
    assert encode_rle(np.array([[1, 0]])).tolist() == [0, 1, 1]


def test_batch_gives_any_mask_back() -> None:
    masks = np.random.default_rng(1).random((4, 3, 16, 20)) < 0.3
    runs, offsets = encode_rle_batch(masks)
    assert offsets.shape == (4 * 3 + 1,)
    np.testing.assert_array_equal(
        decode_rle_batch(runs, offsets, (16, 20), np.arange(12)).reshape(masks.shape), masks
    )
    np.testing.assert_array_equal(
        decode_rle_batch(runs, offsets, (16, 20), np.array([[3 * 3 + 1], [2]])), masks[[[3], [0]], [[1], [2]]]
    )


def test_runs_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="cover 12 pixels"):
        decode_rle(encode_rle(np.zeros((3, 4))), (5, 5))


def test_real_masks(shared: Path) -> None:
    """SAM2 masks of a ConsisID training sample: lossless, and smaller than a fifth of their PNG."""
    files = sorted((shared / "testdata" / "consisid_demo").rglob("annotated_frame_*.png"))[:8]
    assert files
    for file in files:
        mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED) > 0
        runs = encode_rle(mask)
        np.testing.assert_array_equal(decode_rle(runs, mask.shape), mask)
        assert runs.nbytes < mask.size / 8


def test_hull_covers_its_points_only() -> None:
    points = np.array([[10.5, 10.5], [30.5, 10.5], [20.5, 30.5], [20.5, 15.5]])
    mask = hull_mask(points, (40, 50))
    assert mask.shape == (40, 50)
    assert mask.dtype == bool
    assert all(mask[int(y), int(x)] for x, y in points)
    assert not mask[:10].any()
    assert not mask[28, 11]
    assert 200 <= mask.sum() <= 200 + 62, "the triangle and the pixels that its outline crosses"


def test_ellipse_fills_its_box() -> None:
    mask = ellipse_mask(np.array([10.0, 5.0, 50.0, 25.0]), (40, 60))
    assert mask.sum() == pytest.approx(np.pi * 20 * 10, rel=0.02)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 24, 10, 49)


def test_absent_faces_give_empty_masks() -> None:
    assert not ellipse_mask(np.full(4, np.nan), (8, 8)).any()
    assert not hull_mask(np.full((5, 2), np.nan), (8, 8)).any()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_packed_runs_come_back(share):
    mask = np.random.default_rng(0).random((24, 31)) < share
    runs = encode_rle(mask)
    unpacked = unpack_runs(pack_runs(runs))
    assert unpacked.dtype == np.uint32
    np.testing.assert_array_equal(unpacked, runs)


def test_packing_pays_where_rows_are_alike():
    disc = ellipse_mask(np.array([30, 20, 330, 400]), (480, 360))
    runs = encode_rle(disc)
    assert len(pack_runs(runs)) * 8 < runs.nbytes


def test_damaged_runs_are_refused():
    with pytest.raises(ValueError, match="a mask is damaged"):
        unpack_runs(b"no runs")
