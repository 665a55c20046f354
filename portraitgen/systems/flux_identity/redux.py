"""FLUX.1 Redux: a picture as tokens that Flux reads like a prompt's (diffusers' `FluxPriorReduxPipeline`)."""

from typing import Self

import torch
import torch.nn.functional as F
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel


class ReduxEncoder(nn.Module):
    """SigLIP's last hidden states (729 of 384x384 pixels), taken to the width of Flux's text; frozen.

    Args:
        vision: SigLIP.
        embedder: from its width to the text's.

    Raises:
        ValueError: their widths differ.
    """

    def __init__(self, vision: SiglipVisionModel, embedder: ReduxImageEncoder) -> None:
        super().__init__()
        width = embedder.config["redux_dim"]
        if vision.config.hidden_size != width:
            raise ValueError(
                f"conditioning.redux: the image encoder gives {vision.config.hidden_size} numbers a token, "
                f"Redux takes {width}"
            )
        self.vision = vision.requires_grad_(False).eval()
        self.embedder = embedder.requires_grad_(False).eval()
        self.width = int(embedder.config["txt_in_features"])
        size = vision.config.image_size
        assert isinstance(size, int)
        self._size = size

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode whatever the training loop asks for."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Tokens [B, N, width] of pictures [B, 3, H, W] in [-1, 1], which are squeezed to SigLIP's square."""
        pixels = images.float()
        if pixels.shape[-2:] != (self._size, self._size):
            square = (self._size, self._size)
            pixels = F.interpolate(pixels, square, mode="bicubic", antialias=True, align_corners=False)
        hidden = self.vision(pixels.clamp(-1, 1).to(self.vision.dtype)).last_hidden_state
        tokens: Tensor = self.embedder(hidden.to(self.embedder.dtype)).image_embeds
        return tokens.to(images.dtype)


def untrained_redux(*, width: int, seed: int = 0) -> ReduxEncoder:
    """A tiny one whose random weights follow from `seed`: for tests.

    Args:
        width: of the text.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        )
        return ReduxEncoder(SiglipVisionModel(config), ReduxImageEncoder(redux_dim=16, txt_in_features=width))
