"""Masks of frames as masks of the latents that a causal video VAE makes of them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_mask(mask: Tensor, latent_size: Sequence[int], *, compat: bool = False) -> Tensor:
    """Masks [B, 1, T, H, W] at the size (t, h, w) of a video VAE's latents, by trilinear interpolation.

    The first latent frame of a causal VAE is the first frame alone, the k-th stands for frames 4k - 3 to 4k:
    centres 0, 2.5, 6.5, ...

    Args:
        compat: as ConsisID's training: all frames are spread evenly over the latent ones (centres 1.38, 5.15,
            ... for 49 frames), so that the mask is up to 1.4 frames off.
    """
    frames, height, width = latent_size
    if compat:
        return F.interpolate(mask, size=(frames, height, width), mode="trilinear")
    first = F.interpolate(mask[:, :, :1], size=(1, height, width), mode="trilinear")
    if frames == 1:
        return first
    rest = F.interpolate(mask[:, :, 1:], size=(frames - 1, height, width), mode="trilinear")
    return torch.cat([first, rest], dim=2)
