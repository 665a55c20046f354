"""A U-Net that attends to a token of each person, and to one that stands for nobody."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn


class PeopleToImageNetwork(nn.Module):
    """Args: unet: options of the U-Net; identity_dim: of the embeddings of faces."""

    def __init__(self, unet: Mapping[str, Any], identity_dim: int) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**unet)
        self.person = nn.Linear(identity_dim, unet["cross_attention_dim"])
        self.nobody = nn.Parameter(torch.zeros(unet["cross_attention_dim"]))

    def forward(self, noisy: Tensor, time: Tensor, identities: Tensor, people: Tensor) -> Tensor:
        """Latents [B, C, h, w], steps [B], embeddings [B, P, D], bool [B, P] who is seen → [B, C, h, w]."""
        dtype = self.unet.dtype
        nobody = self.nobody.expand(len(noisy), 1, -1)
        tokens = torch.cat([nobody, self.person(identities.to(dtype))], dim=1)
        seen = torch.cat([torch.ones_like(people[:, :1]), people], dim=1)
        time = time * 1000  # a flow's time is in [0, 1]; the U-Net embeds steps
        return self.unet(noisy.to(dtype), time, tokens, encoder_attention_mask=seen, return_dict=False)[0]
