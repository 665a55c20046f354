"""The U-Net of Stable Diffusion, with adapters."""

from collections.abc import Mapping
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from portraitgen.nn.lora import add_lora
from portraitgen.nn.pretrained import build_model


class TextToImageNetwork(nn.Module):
    """Predicts the noise of latents from a prompt.

    Args:
        unet: options of the U-Net; None: those of the base.
        base, lora: see `build_model` and `add_lora`.
    """

    def __init__(
        self,
        unet: Mapping[str, Any] | None = None,
        base: Mapping[str, Any] | None = None,
        lora: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.unet = build_model(UNet2DConditionModel, unet, base, section="network.base")
        add_lora(self, lora, section="network.lora")

    def forward(self, noisy: Tensor, time: Tensor, text: Tensor) -> Tensor:
        """Latents [B, C, h, w], steps [B] and embeddings of prompts [B, L, D] → [B, C, h, w]."""
        dtype = self.unet.dtype
        return self.unet(noisy.to(dtype), time, text.to(dtype), return_dict=False)[0]
