"""PSNR and SSIM between generated and true frames: one value a frame."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from portraitgen.metrics.rgb import as_uint8

PEAK = 255.0
MAX_PSNR = 60.0
"""Ceiling in dB, libvmaf's for 8-bit video (6 * bits + 12): an identical frame leaves the mean finite."""
SSIM_WINDOW = 11
CHUNK = 16
"""Frames compared at a time, so that the memory needed does not grow with the length of the clip."""


def frame_psnr(generated: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of every frame over its pixels and channels, at most `MAX_PSNR`.

    The squared errors of 8-bit values are summed as exact integers in float64: neither the number of frames
    given at once nor the device changes a digit.

    Args:
        generated: [T, 3, H, W] uint8, or float in [-1, 1] (then rounded to 8 bits first).
        truth: the same shape.

    Returns:
        float64 [T] in dB.

    Raises:
        ValueError: shapes differ, are not RGB frames, or values are not finite.
    """

    compare = partial(peak_signal_noise_ratio, data_range=PEAK, reduction="none", dim=(1, 2, 3))
    return _compare_frames(compare, generated, truth).clamp(max=MAX_PSNR)


def frame_ssim(generated: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of every frame: Gaussian window of 11 pixels and sigma 1.5, mean over RGB.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004 (K1 0.01,
    K2 0.03).

    Args:
        generated: [T, 3, H, W] uint8, or float in [-1, 1] (then rounded to 8 bits first).
        truth: the same shape.

    Returns:
        float64 [T]; 1 for identical frames.

    Raises:
        ValueError: as `frame_psnr`, or frames smaller than the window.
    """
    if min(truth.shape[-2:]) < SSIM_WINDOW:
        height, width = truth.shape[-2:]
        raise ValueError(f"SSIM needs frames of at least {SSIM_WINDOW} pixels a side, got {width}x{height}")

    compare = partial(structural_similarity_index_measure, data_range=PEAK, reduction="none")
    return _compare_frames(compare, generated, truth)


def _compare_frames(compare: Callable[..., Any], generated: Tensor, truth: Tensor) -> Tensor:
    if generated.shape != truth.shape or generated.ndim != 4:
        raise ValueError(
            f"generated and true frames must both be [T, 3, H, W] of one shape, "
            f"got {list(generated.shape)} and {list(truth.shape)}"
        )
    generated = as_uint8(generated, name="generated frames")
    truth = as_uint8(truth, name="true frames").to(generated.device)
    chunks = zip(generated.split(CHUNK), truth.split(CHUNK), strict=True)
    return torch.cat([compare(ours.double(), theirs.double()) for ours, theirs in chunks])
