"""Boxes (xyxy) and affine maps between pictures.

Positions are continuous pixels throughout: pixel i covers i to i + 1 and has its centre at i + 0.5, so that
scaling a picture scales its positions.
"""

import cv2
import numpy as np


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Areas [...] of boxes [..., 4]; inverted boxes have none."""
    sides = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None)
    return np.asarray(sides[..., 0] * sides[..., 1])


def _intersection_area(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    return box_area(np.concatenate([low, high], axis=-1))


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of float boxes [..., 4], broadcast; 0 for two empty boxes.

    `box_iou(a[:, None], b[None])` is the table of all pairs.
    """
    shared = _intersection_area(first, second)
    union = box_area(first) + box_area(second) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def box_containment(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over the smaller of two areas of float boxes, broadcast: 1 when one box lies inside the
    other.

    The measure that ties a face to its head and person, of which it covers only a little.
    """
    shared = _intersection_area(first, second)
    smaller = np.minimum(box_area(first), box_area(second))
    smaller = np.broadcast_to(smaller, shared.shape)
    return np.asarray(np.divide(shared, smaller, out=np.zeros_like(shared), where=smaller > 0))


def union_box(boxes: np.ndarray) -> np.ndarray:
    """The smallest box [4] around boxes [N, 4]; NaN rows (nothing found) are left out.

    Raises:
        ValueError: no box that is not NaN.
    """
    found = boxes[~np.isnan(boxes).any(axis=-1)]
    if len(found) == 0:
        raise ValueError("union_box needs at least one box")
    return np.concatenate([found[:, :2].min(axis=0), found[:, 2:].max(axis=0)])


def expand_box(box: np.ndarray, factor: float) -> np.ndarray:
    """Scale the sides of boxes [..., 4] by `factor` about their centres; the result may leave the picture."""
    centre = (box[..., :2] + box[..., 2:]) / 2
    half = (box[..., 2:] - box[..., :2]) * (factor / 2)
    return np.concatenate([centre - half, centre + half], axis=-1)


def square_box(box: np.ndarray, *, image_size: tuple[int, int]) -> np.ndarray:
    """A square crop [4] around a box, inside the picture and on whole pixels.

    The side is the longer side of the box, at most the shorter one of the picture; where the square would
    leave the picture it is shifted back. So a crop never needs padding, and holds the box whenever the
    picture can.

    Args:
        box: [4] xyxy.
        image_size: (height, width) of the picture.

    Returns:
        float32 [4] of whole numbers.
    """
    height, width = image_size
    side = min(max(round(float(max(box[2] - box[0], box[3] - box[1]))), 1), height, width)
    centre = (box[:2] + box[2:]) / 2
    left = float(np.clip(np.round(centre[0] - side / 2), 0, width - side))
    top = float(np.clip(np.round(centre[1] - side / 2), 0, height - side))
    return np.array([left, top, left + side, top + side], np.float32)


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, uniform scale and shift [2, 3] that takes source points [N, 2] nearest to target points.

    Least squares by Umeyama, "Least-squares estimation of transformation parameters between two point
    patterns", PAMI 1991; a reflection is never returned.

    Raises:
        ValueError: fewer than two points, shapes that differ, or all source points in one place.
    """
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2 or len(source) < 2:
        raise ValueError(
            f"need two equal sets of at least 2 points [N, 2], got {source.shape} and {target.shape}"
        )
    source, target = source.astype(np.float64), target.astype(np.float64)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    from_centre, to_centre = source - source_mean, target - target_mean
    variance = float((from_centre**2).sum())
    if variance <= 0:
        raise ValueError("all source points coincide, so no similarity transform can be fitted to them")
    left, singular, right = np.linalg.svd(to_centre.T @ from_centre)
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0])
    linear = (singular * signs).sum() / variance * (left * signs) @ right
    shift = target_mean - linear @ source_mean
    return np.concatenate([linear, shift[:, None]], axis=1)


def apply_affine(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map points [..., 2] by an affine matrix [2, 3]."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def warp_affine(
    image: np.ndarray,
    matrix: np.ndarray,
    size: tuple[int, int],
    *,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> np.ndarray:
    """Resample a picture [H, W, C] so that what was at p comes to lie at `apply_affine(p, matrix)`.

    Args:
        matrix: [2, 3].
        size: (height, width) of the result.
        fill: colour of what lies outside the picture.
    """
    height, width = size
    # cv2 puts whole numbers on pixel centres: shift by half a pixel before and back after.
    centred = matrix.astype(np.float64)
    centred[:, 2] += centred[:, :2].sum(axis=1) / 2 - 0.5
    return np.asarray(
        cv2.warpAffine(image, centred, (width, height), flags=cv2.INTER_LINEAR, borderValue=fill)
    )
