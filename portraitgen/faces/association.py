"""Which part belongs to which whole: a face to a head, a head to a person."""

import numpy as np
from scipy.optimize import linear_sum_assignment

from portraitgen.media.geometry import box_containment, box_iou


def match_parts(parts: np.ndarray, wholes: np.ndarray, *, min_containment: float = 0.5) -> dict[int, int]:
    """Part -> whole, one to one, as many as can be.

    A part belongs to a whole when they share more than `min_containment` of the smaller one's area: a face
    covers too little of a person for their intersection over union to say anything. That decides between
    wholes which both contain the part.

    Args:
        parts, wholes: float boxes [N, 4] and [M, 4], xyxy.
    """
    if len(parts) == 0 or len(wholes) == 0:
        return {}
    containment = box_containment(parts[:, None], wholes[None])
    iou = box_iou(parts[:, None], wholes[None])
    return _one_to_one(np.where(containment > min_containment, containment + iou, 0))


def match_boxes(first: np.ndarray, second: np.ndarray, *, min_iou: float) -> dict[int, int]:
    """Box of the first -> the same thing's box among the second, one to one, by intersection over union."""
    if len(first) == 0 or len(second) == 0:
        return {}
    iou = box_iou(first[:, None], second[None])
    return _one_to_one(np.where(iou > min_iou, 2 * iou, 0))


def _one_to_one(weight: np.ndarray) -> dict[int, int]:
    """The pairs with the largest sum of weights; 0 is no pair."""
    pairs = zip(*linear_sum_assignment(weight, maximize=True), strict=True)
    return {int(row): int(column) for row, column in pairs if weight[row, column] > 0}
