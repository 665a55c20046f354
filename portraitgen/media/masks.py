"""Masks as run lengths, and masks drawn from landmarks and boxes.

Runs go row by row and alternate between outside and inside, beginning outside (so the first run is 0 where
the first pixel is inside). On the disk they are packed: a row's runs are much like those of the row before,
so each run is stored as what it is longer than the last but one, deflated (figures: `benchmarks/masks.py`).
"""

import zlib
from collections.abc import Iterable

import cv2
import numpy as np


def encode_rle(mask: np.ndarray) -> np.ndarray:
    """Run lengths, uint32 [R], of a mask (bool or 0/1) [H, W]."""
    flat = np.asarray(mask, bool).reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]]))
    if flat.size and flat[0]:
        runs = np.concatenate([[0], runs])
    return runs.astype(np.uint32)


def decode_rle(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask, bool [H, W], of run lengths; `size` is (height, width).

    Raises:
        ValueError: the runs do not fill the size.
    """
    height, width = size
    total = int(runs.sum(dtype=np.int64))
    if total != height * width:
        raise ValueError(f"run lengths cover {total} pixels, a {height}x{width} mask has {height * width}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(height, width)


def encode_rle_batch(masks: Iterable[Iterable[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths of masks [T, M, H, W] (M mask ids in each of T frames), an array or made frame by frame.

    Returns:
        runs: uint32, of all masks one after the other, ids within frames.
        offsets: int64 [T * M + 1]; those of mask (t, m) are runs[offsets[i]:offsets[i + 1]] with i = t * M
            + m.
    """
    encoded = [encode_rle(mask) for frame in masks for mask in frame]
    offsets = np.cumsum([0, *(len(runs) for runs in encoded)], dtype=np.int64)
    return np.concatenate([np.zeros(0, np.uint32), *encoded]), offsets


def decode_rle_batch(
    runs: np.ndarray, offsets: np.ndarray, size: tuple[int, int], masks: np.ndarray
) -> np.ndarray:
    """Decode chosen masks of a batch.

    Args:
        runs, offsets: from `encode_rle_batch`.
        size: (height, width).
        masks: integer [...] of places t * M + m.

    Returns:
        bool [..., H, W].
    """
    chosen = np.asarray(masks)
    decoded = np.zeros((chosen.size, *size), bool)
    for mask, place in zip(decoded, chosen.reshape(-1), strict=True):
        mask[...] = decode_rle(runs[offsets[place] : offsets[place + 1]], size)
    return decoded.reshape(*chosen.shape, *size)


def pack_runs(runs: np.ndarray) -> bytes:
    """The runs of one mask, uint32 [R], in as few bytes as is quick."""
    steps = runs.astype("<u4")
    # Below 0 it wraps round, and back again when it is summed up.
    steps[2:] -= runs[:-2]
    return zlib.compress(steps.tobytes())


def unpack_runs(packed: bytes | memoryview) -> np.ndarray:
    """Inverse of `pack_runs`.

    Raises:
        ValueError: these are no packed runs.
    """
    try:
        steps = np.frombuffer(zlib.decompress(packed), "<u4")
    except zlib.error as error:
        raise ValueError(f"a mask is damaged ({error})") from error
    runs = np.empty(len(steps), np.uint32)
    for side in (slice(0, None, 2), slice(1, None, 2)):
        np.cumsum(steps[side], dtype=np.uint32, out=runs[side])
    return runs


def hull_mask(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Filled convex hull, bool [H, W], of points [N, 2] in pixels; empty without any or when one is NaN."""
    mask = np.zeros(size, np.uint8)
    if len(points) and not np.isnan(points).any():
        hull = cv2.convexHull(np.floor(points).astype(np.int32))
        cv2.fillConvexPoly(mask, hull, 1)
    return mask.astype(bool)


def ellipse_mask(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Filled ellipse, bool [H, W], inscribed in a box [4] in pixels; empty when the box is NaN."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    (left, top, right, bottom) = (float(value) for value in box)
    across = (columns - (left + right) / 2) / max((right - left) / 2, 1e-6)
    down = (rows - (top + bottom) / 2) / max((bottom - top) / 2, 1e-6)
    return np.asarray(across**2 + down**2 <= 1)
