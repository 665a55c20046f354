"""A CLIP image encoder at the smallest size that has all its parts."""

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection


def tiny_clip(*, projection_dim: int = 6) -> CLIPVisionModelWithProjection:
    """For pictures of 32x32; random weights, the same each time."""
    torch.manual_seed(0)
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            projection_dim=projection_dim,
        )
    )
