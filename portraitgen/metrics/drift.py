"""How far a long video drifts from how it began: figures of its first frames against those of its last.

Long videos made part by part may slowly change colour, blur, or turn into somebody else. The drift of a
figure is the distance of its mean over the first 15 % of the frames from that over the last 15 %
(Helios-Bench's definition).
"""

import numpy as np
import torch
from torch import Tensor

from portraitgen.metrics.rgb import Clip, as_uint8

SHARE = 0.15
"""Of the frames at either end."""
CHUNK = 4
"""Frames measured at a time, so that the memory needed does not grow with the length of the clip."""
_LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)


def end_frames(total: int, *, share: float = SHARE) -> np.ndarray:
    """Places of the first and of the last `share` of the frames of a clip: int64 [2N], increasing.

    Raises:
        ValueError: fewer frames than have a frame at either end.
    """
    count = round(total * share)
    if count < 1 or 2 * count > total:
        raise ValueError(f"drift over {share:.0%} at either end: {total} frames are too few")
    return np.concatenate([np.arange(count), np.arange(total - count, total)])


def drift(values: np.ndarray) -> float:
    """Distance of the mean over the first half of the values from that over the others, NaN left out.

    Args:
        values: [2N] of `end_frames`, or [2N, D] with the distance of vectors of D numbers.

    Returns:
        NaN where one end has no value.
    """
    rows = values.reshape(len(values), -1).astype(np.float64)
    ends = [end[np.isfinite(end).all(axis=1)] for end in np.split(rows, 2)]
    if not all(len(end) for end in ends):
        return np.nan
    return float(np.linalg.norm(ends[0].mean(axis=0) - ends[1].mean(axis=0)))


def frame_colours(frames: Clip) -> Tensor:
    """Mean red, green and blue of each frame: float64 [T, 3] in 8-bit steps."""
    clip = as_uint8(frames, name="frames of a video")
    return torch.cat([few.double().mean(dim=(-2, -1)) for few in clip.split(CHUNK)])


def frame_sharpness(frames: Clip) -> Tensor:
    """Standard deviation of the Laplacian of each frame's luma: float64 [T] in 8-bit steps; 0 without edges.

    Raises:
        ValueError: frames of fewer than 3x3 pixels.
    """
    clip = as_uint8(frames, name="frames of a video")
    if min(clip.shape[-2:]) < 3:
        raise ValueError(f"sharpness needs frames of 3x3 pixels or more, got {list(clip.shape[-2:])}")
    return torch.cat([_sharpness(few) for few in clip.split(CHUNK)])


def _sharpness(frames: Tensor) -> Tensor:
    luma = (frames.double() * _LUMA.to(frames.device)).sum(dim=-3)
    middle = luma[..., 1:-1, 1:-1]
    around = luma[..., :-2, 1:-1] + luma[..., 2:, 1:-1] + luma[..., 1:-1, :-2] + luma[..., 1:-1, 2:]
    return (around - 4 * middle).flatten(1).std(dim=1, correction=0)
