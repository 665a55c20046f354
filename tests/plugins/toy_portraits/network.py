"""Says how far the noise is let through."""

import torch
from torch import Tensor, nn


class ToyNetwork(nn.Module):
    """Args: width: of the one layer; for the check of settings to judge."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width: {width}, but it must be 1 or more")
        self.scale = nn.Parameter(torch.full((width,), 0.05))

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy * self.scale.mean()
