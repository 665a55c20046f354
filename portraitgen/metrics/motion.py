"""How much a face moves (Glo, Exp) and how smoothly and steadily a video plays (VBench's arithmetic)."""

from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from portraitgen.faces.measure import NOSE_TIP, UPPER_FACE
from portraitgen.metrics.rgb import Clip, as_uint8

UNIT_SIZE = 512
"""Landmarks are scaled to a frame of this many pixels a side before their variance is taken."""


def motion_variance(landmarks: np.ndarray, *, frame_size: int) -> tuple[float, float]:
    """Glo and Exp, the head's and the upper face's motion, as variances over time.

    Glo is the variance of the nose tip, Exp that of `UPPER_FACE` about the nose tip: both population
    variances, meaned over x and y and the points, in pixels² of a frame of 512. The papers that report them
    (Loopy, 2024) give no unit, so ours compare only among ours, and only over windows of the same length:
    both grow with it. A moving camera counts as Glo. The aim is the true video's value, not the largest.

    Args:
        landmarks: [T, 68, 2] iBUG points in pixels; a frame with NaN points is left out.
        frame_size: height of the frames in pixels, for scaling to 512.

    Returns:
        Glo and Exp; NaN when fewer than 2 frames have landmarks.

    Raises:
        ValueError: not 68 points a frame, or an impossible frame size.
    """
    if landmarks.ndim != 3 or landmarks.shape[1:] != (68, 2) or frame_size < 1:
        raise ValueError(
            f"Glo and Exp need iBUG landmarks [T, 68, 2] and the frame size in pixels, "
            f"got {list(landmarks.shape)} and {frame_size}"
        )
    found = landmarks[np.isfinite(landmarks).all(axis=(1, 2))].astype(np.float64) * (UNIT_SIZE / frame_size)
    if len(found) < 2:
        return np.nan, np.nan
    nose = found[:, NOSE_TIP]
    expression = found[:, UPPER_FACE] - nose[:, None]
    return float(nose.var(axis=0).mean()), float(expression.var(axis=0).mean())


def frame_differences(frames: Clip) -> Tensor:
    """Mean absolute difference of every frame from the one before: float64 [T - 1] in 8-bit steps.

    Raises:
        ValueError: fewer than 2 frames, or not RGB frames.
    """
    clip = as_uint8(frames, name="frames of a video")
    if clip.ndim != 4 or len(clip) < 2:
        raise ValueError(f"frame differences need a clip [T, 3, H, W] of 2 frames, got {list(clip.shape)}")
    return torch.stack([mean_difference(before, after) for before, after in pairwise(clip)])


def steadiness(differences: Tensor) -> float:
    """(255 − mean of the differences) / 255; 1 for no difference.

    VBench's "temporal flickering" of the `frame_differences` of a clip, and its "motion smoothness" of the
    differences of the odd frames 1, 3, … from those that are interpolated between the even ones (VBench: by
    AMT-S at half time). Useful differences are small (0.975 to 0.993), and both reward standing still: print
    the motion beside them.
    """
    return float((255 - differences.mean()) / 255)


def mean_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of two pictures uint8 [3, H, W]: float64 [] in 8-bit steps.

    Summed as whole numbers, on the processor: no array of wider numbers is made of them.
    """
    total = cv2.norm(a.cpu().numpy(), b.cpu().numpy(), cv2.NORM_L1)
    return torch.tensor(total / a.numel(), dtype=torch.float64)
