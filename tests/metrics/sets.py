"""Two sets of samples that differ in mean and covariance."""

import torch
from torch import Tensor


def two_sets() -> tuple[Tensor, Tensor]:
    """Float [60, 8] and [45, 8]."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(8, 8, generator=generator)
    x = torch.randn(60, 8, generator=generator) @ mix + 3
    y = torch.randn(45, 8, generator=generator) + 2.5
    return x, y
