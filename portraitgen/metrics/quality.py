"""PSNR and SSIM between generated and true frames: one value a frame."""

from typing import Literal, get_args

import cv2
import numpy as np
import torch
from torch import Tensor

from portraitgen.metrics.rgb import as_uint8

PEAK = 255.0
MAX_PSNR = 60.0
"""Ceiling in dB, libvmaf's for 8-bit video (6 * bits + 12): an identical frame leaves the mean finite."""
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SsimBorder = Literal["valid", "reflected"]
"""`valid`: the windows that lie within the frame, as Wang's own code; `reflected`: one about every pixel."""


def frame_psnr(generated: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of every frame over its pixels and channels, at most `MAX_PSNR`.

    The squared errors of 8-bit values are summed as whole numbers, on the processor: neither the number of
    frames given at once nor the device changes a digit.

    Args:
        generated: [T, 3, H, W] uint8, or float in [-1, 1] (then rounded to 8 bits first).
        truth: the same shape.

    Returns:
        float64 [T] in dB.

    Raises:
        ValueError: shapes differ, are not RGB frames, or values are not finite.
    """
    generated, truth = _as_frames(generated, truth)
    pairs = zip(generated.cpu(), truth.cpu(), strict=True)
    squared = [cv2.norm(ours.numpy(), theirs.numpy(), cv2.NORM_L2SQR) for ours, theirs in pairs]
    means = torch.tensor(squared, dtype=torch.float64) / truth[0].numel()
    return (10 * (PEAK**2 / means).log10()).clamp(max=MAX_PSNR)


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
    height, width = truth.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs frames of at least {SSIM_WINDOW} pixels a side, got {width}x{height}")
    generated, truth = _as_frames(generated, truth)
    compare = _Windows(height, width, border)
    values = [
        [compare.similarity(*planes) for planes in zip(ours.numpy(), theirs.numpy(), strict=True)]
        for ours, theirs in zip(generated.cpu(), truth.cpu(), strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64).mean(dim=1)


class _Windows:
    """Compares pictures of one channel, always in the same memory: new arrays took longer than the sums."""

    def __init__(self, height: int, width: int, border: SsimBorder) -> None:
        self._line = cv2.getGaussianKernel(SSIM_WINDOW, SSIM_SIGMA, cv2.CV_64F)
        self._terms = np.empty((4, height, width))
        self._smooth = np.empty((4, height, width))
        edge = SSIM_WINDOW // 2
        inner = slice(edge, -edge) if border == "valid" else slice(None)
        self._means = self._smooth[:, inner, inner]
        self._product = np.empty(self._means.shape[1:])

    def similarity(self, ours: np.ndarray, theirs: np.ndarray) -> float:
        """Mean over the windows of two pictures, uint8 [H, W]."""
        one, other, both, squares = self._terms
        one[:], other[:] = ours, theirs
        np.multiply(one, other, out=both)
        np.multiply(one, one, out=squares)
        squares += np.multiply(other, other, out=self._smooth[0])
        for term, smooth in zip(self._terms, self._smooth, strict=True):
            cv2.sepFilter2D(
                term, cv2.CV_64F, self._line, self._line, dst=smooth, borderType=cv2.BORDER_REFLECT_101
            )
        mean_one, mean_other, covariance, variances = self._means
        product = np.multiply(mean_one, mean_other, out=self._product)
        covariance -= product
        mean_squares = np.square(mean_one, out=mean_one)
        mean_squares += np.square(mean_other, out=mean_other)
        variances -= mean_squares
        steady = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
        product *= 2
        product += steady[0]
        covariance *= 2
        covariance += steady[1]
        mean_squares += steady[0]
        variances += steady[1]
        product *= covariance
        mean_squares *= variances
        product /= mean_squares
        return float(product.mean())


def _as_frames(generated: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both as uint8 on the device of the generated ones."""
    if generated.shape != truth.shape or generated.ndim != 4:
        raise ValueError(
            f"generated and true frames must both be [T, 3, H, W] of one shape, "
            f"got {list(generated.shape)} and {list(truth.shape)}"
        )
    generated = as_uint8(generated, name="generated frames")
    return generated, as_uint8(truth, name="true frames").to(generated.device)
