"""A frozen CLIP image encoder that takes the pictures of a batch as they are."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

# Mean and standard deviation of the images that CLIP was trained on (Radford et al. 2021), RGB in [0, 1].
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class ClipImageEncoder(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] → projected CLIP embeddings [B, 1, D], one context token for a U-Net.

    The image is resized to CLIP's square without keeping its aspect, as AniPortrait does. The model is
    frozen and stays in eval mode.
    """

    _mean: Tensor
    _std: Tensor

    def __init__(self, model: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.embedding_dim = int(model.config.projection_dim)
        size = model.config.image_size
        assert isinstance(size, int)
        self._size = size
        patch = model.config.patch_size
        assert isinstance(patch, int)
        self.num_patches = (size // patch) ** 2
        self.token_dim = int(model.config.hidden_size)
        self._gray: Tensor | None = None
        self._gray_tokens: Tensor | None = None
        self.register_buffer("_mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    @classmethod
    def from_pretrained(cls, path: str, **options: Any) -> Self:
        """Load the encoder in `path`: a folder, or a hub id where the hub can be reached."""
        return cls(CLIPVisionModelWithProjection.from_pretrained(path, **options))

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode whatever the training loop asks for."""
        return super().train(False)

    def embed_gray(self) -> Tensor:
        """Embedding [1, 1, D] of an image of CLIP's mean colour, all zeros in CLIP's own range; made once."""
        if self._gray is None:
            self._gray = self(self._gray_image())
        return self._gray

    def gray_tokens(self) -> Tensor:
        """`tokens` [1, N, W] of that image; made once."""
        if self._gray_tokens is None:
            self._gray_tokens = self.tokens(self._gray_image())
        return self._gray_tokens

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        embeds: Tensor = self.model(self._pixels(images)).image_embeds
        return embeds[:, None].to(images.dtype)

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """Tokens [B, N, W] of the N patches after the last layer but one, not normalised."""
        seen = self.model.vision_model(self._pixels(images), output_hidden_states=True)
        tokens: Tensor = seen.hidden_states[-2][:, 1:]
        return tokens.to(images.dtype)

    def _gray_image(self) -> Tensor:
        return (2 * self._mean - 1).expand(1, -1, self._size, self._size)

    def _pixels(self, images: Tensor) -> Tensor:
        """As CLIP takes them."""
        pixels = F.interpolate(
            images.float(), (self._size, self._size), mode="bicubic", antialias=True, align_corners=False
        ).clamp(-1, 1)
        return (((pixels + 1) / 2 - self._mean) / self._std).to(self.model.dtype)
