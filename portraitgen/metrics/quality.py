"""PSNR and SSIM between generated and true frames: one value a frame."""

from typing import Literal, get_args

import cv2
import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from portraitgen.metrics.rgb import as_uint8

PEAK = 255.0
MAX_PSNR = 60.0
"""Ceiling in dB, libvmaf's for 8-bit video (6 * bits + 12): an identical frame leaves the mean finite."""
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SsimBorder = Literal["valid", "reflected"]
"""`valid`: the windows that lie within the frame, as Wang's own code; `reflected`: one about every pixel."""
CHUNK = 4
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
    generated, truth = _as_frames(generated, truth)
    values = [
        peak_signal_noise_ratio(
            ours.double(), theirs.double(), data_range=PEAK, reduction="none", dim=(1, 2, 3)
        )
        for ours, theirs in zip(generated.split(CHUNK), truth.split(CHUNK), strict=True)
    ]
    return torch.cat(values).clamp(max=MAX_PSNR)


def frame_ssim(generated: Tensor, truth: Tensor, *, border: SsimBorder = "valid") -> Tensor:
    """Structural similarity of every frame: Gaussian window of 11 pixels and sigma 1.5, mean over RGB.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004 (K1 0.01,
    K2 0.03, population moments). On the processor in float64, one frame at a time, whatever the device.

    Args:
        generated: [T, 3, H, W] uint8, or float in [-1, 1] (then rounded to 8 bits first).
        truth: the same shape.
        border: which windows are averaged; those about the pixels of the border see a frame mirrored there,
            and are up to 0.2 more alike or less in small frames.

    Returns:
        float64 [T]; 1 for identical frames.

    Raises:
        ValueError: as `frame_psnr`, frames smaller than the window, or an unknown border.
    """
    if border not in get_args(SsimBorder):
        raise ValueError(f"border must be one of {', '.join(get_args(SsimBorder))}, got {border!r}")
    if min(truth.shape[-2:]) < SSIM_WINDOW:
        height, width = truth.shape[-2:]
        raise ValueError(f"SSIM needs frames of at least {SSIM_WINDOW} pixels a side, got {width}x{height}")
    generated, truth = (frames.cpu().movedim(1, -1) for frames in _as_frames(generated, truth))
    pairs = zip(generated.numpy(), truth.numpy(), strict=True)
    return torch.tensor([_ssim(ours, theirs, border) for ours, theirs in pairs], dtype=torch.float64)


def _ssim(ours: np.ndarray, theirs: np.ndarray, border: SsimBorder) -> float:
    """Mean similarity of two pictures, uint8 [H, W, 3]."""
    one, other = ours.astype(np.float64), theirs.astype(np.float64)
    mean_one, mean_other = _smooth(one, border), _smooth(other, border)
    product, squares = mean_one * mean_other, mean_one * mean_one + mean_other * mean_other
    covariance = _smooth(one * other, border) - product
    variances = _smooth(one * one + other * other, border) - squares
    steady = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    similarity = (2 * product + steady[0]) * (2 * covariance + steady[1])
    similarity /= (squares + steady[0]) * (variances + steady[1])
    return float(similarity.mean())


def _smooth(image: np.ndarray, border: SsimBorder) -> np.ndarray:
    """The picture under the window, float64 [H, W, 3], or [H - 10, W - 10, 3] of the valid region."""
    line = cv2.getGaussianKernel(SSIM_WINDOW, SSIM_SIGMA, cv2.CV_64F)
    smooth = cv2.sepFilter2D(image, cv2.CV_64F, line, line, borderType=cv2.BORDER_REFLECT_101)
    edge = SSIM_WINDOW // 2
    return smooth if border == "reflected" else smooth[edge:-edge, edge:-edge]


def _as_frames(generated: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both as uint8 on the device of the generated ones."""
    if generated.shape != truth.shape or generated.ndim != 4:
        raise ValueError(
            f"generated and true frames must both be [T, 3, H, W] of one shape, "
            f"got {list(generated.shape)} and {list(truth.shape)}"
        )
    generated = as_uint8(generated, name="generated frames")
    return generated, as_uint8(truth, name="true frames").to(generated.device)
