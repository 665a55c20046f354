"""Colour at the device: packed I420 bytes to RGB in [-1, 1], and model output back to bytes.

Shards and loaders carry 1.5 bytes a pixel; the only conversion happens here, on whatever device the tensor
is.
"""

import functools

import torch
from torch import Tensor

# BT.601, limited range (luma 16..235, chroma 16..240 around 128), straight to [-1, 1].
_LUMA_GAIN = 2 / 219
_CHROMA_TO_RGB = (
    (0.0, 1.402),
    (-0.344136, -0.714136),
    (1.772, 0.0),
)
_CHROMA_GAIN = 2 / 224


def yuv420_to_rgb(planes: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Convert packed I420 pictures to RGB.

    Args:
        planes: uint8 [..., 3H/2, W]; H rows of luma, then U and V of [H/2, W/2] each, flattened. BT.601
            limited range, as `portraitgen.media.encode` tags and writes it. H and W even.
        dtype: of the result; the arithmetic is float32.

    Returns:
        [..., 3, H, W] in [-1, 1]. Chroma is repeated (nearest), which stays within 3 of 255 levels of
        swscale.

    Raises:
        ValueError: wrong dtype or odd sides.
    """
    *lead, rows, width = planes.shape
    if planes.dtype != torch.uint8 or rows % 3 or width % 2:
        raise ValueError(
            f"planes must be uint8 [..., 3H/2, W], H and W even; got {planes.dtype} {planes.shape}"
        )
    height = rows // 3 * 2
    half = (height // 2, width // 2)
    luma = planes[..., :height, :].float().sub_(16).mul_(_LUMA_GAIN).sub_(1)
    chroma = planes[..., height:, :].reshape(*lead, 2, *half).float().sub_(128).mul_(_CHROMA_GAIN)
    colour = torch.einsum("kc,...chw->...khw", _chroma_to_rgb(planes.device), chroma)
    # The 2x2 luma samples of a block share one chroma sample: broadcasting is the nearest upsampling.
    blocks = luma.reshape(*lead, 1, half[0], 2, half[1], 2) + colour[..., :, None, :, None]
    return blocks.clamp_(-1, 1).to(dtype).reshape(*lead, 3, height, width)


@functools.cache
def _chroma_to_rgb(device: torch.device) -> Tensor:
    """The mixing matrix [3, 2], copied to a device once."""
    return torch.tensor(_CHROMA_TO_RGB, device=device)


def rgb_to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1], any layout, to uint8 in the same layout; values outside are clipped."""
    return images.detach().float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
