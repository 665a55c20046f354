"""CogVideoX's VAE at the smallest size that keeps its strides: 8 in space, 4 in time."""

import torch
from diffusers import AutoencoderKLCogVideoX


def tiny_cogvideox(*, latent_channels: int = 4, **options: object) -> AutoencoderKLCogVideoX:
    """Random weights, the same each time; `options` are those of the class."""
    torch.manual_seed(0)
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=2,
        **options,
    )
