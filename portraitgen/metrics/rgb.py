"""Clips as every metric and picture of this package takes them: 8-bit RGB, what a viewer is shown."""

from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from portraitgen.media.yuv import rgb_to_uint8

Clip: TypeAlias = Tensor | np.ndarray
"""Frames [T, 3, H, W]: uint8 in 0..255, or floating point in [-1, 1]."""


def as_uint8(clip: Clip, *, name: str) -> Tensor:
    """8-bit frames of a clip; a figure taken on them is the figure of the file that is written.

    Args:
        clip: [T, 3, H, W] or one frame [3, H, W], uint8 or float in [-1, 1] (values outside are clipped).
        name: what the clip is, for the message of an error ("generated frames").

    Returns:
        uint8 tensor of the same shape, on the clip's device.

    Raises:
        ValueError: not RGB frames, or values that are not finite (a network that has diverged).
    """
    frames = torch.as_tensor(clip)
    if frames.ndim not in (3, 4) or frames.shape[-3] != 3 or 0 in frames.shape:
        raise ValueError(
            f"{name}: expected RGB frames [T, 3, H, W] or one frame [3, H, W], got {list(frames.shape)}"
        )
    if frames.dtype == torch.uint8:
        return frames
    if not frames.is_floating_point():
        raise ValueError(f"{name}: expected uint8 or floating point values in [-1, 1], got {frames.dtype}")
    if not torch.isfinite(frames).all():
        raise ValueError(f"{name}: some values are NaN or infinite; the network that made them has diverged")
    return rgb_to_uint8(frames)
