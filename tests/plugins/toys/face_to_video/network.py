"""The transformer of CogVideoX, with adapters and a layer for the face."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn

from portraitgen.nn.lora import add_lora
from portraitgen.nn.pretrained import build_model


class FaceToVideoNetwork(nn.Module):
    """Args: transformer: its options, None: the base's; base, lora: see `build_model`, `add_lora`."""

    def __init__(
        self,
        transformer: Mapping[str, Any] | None = None,
        base: Mapping[str, Any] | None = None,
        lora: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.transformer = build_model(CogVideoXTransformer3DModel, transformer, base, section="network.base")
        channels = self.transformer.config["out_channels"]
        self.face = nn.Conv2d(channels, channels, 1)
        add_lora(self, lora, section="network.lora")

    def forward(self, noisy: Tensor, time: Tensor, text: Tensor, face: Tensor) -> Tensor:
        """Latents [B, t, C, h, w], steps [B], text [B, L, D], face [B, C, h, w] → [B, t, C, h, w]."""
        dtype = self.transformer.dtype
        seen = self.face(face.to(self.face.weight.dtype))[:, None].expand_as(noisy)
        latents = torch.cat([noisy.to(dtype), seen.to(dtype)], dim=2)
        return self.transformer(latents, text.to(dtype), time, return_dict=False)[0]
