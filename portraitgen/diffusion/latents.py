"""Codecs between pixels and the latents that a diffusion model works on; they have no trainable weights."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from portraitgen.diffusion.noise import draw_noise

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL


class LatentCodec(nn.Module, ABC):
    """Images `[..., 3, H, W]` in [-1, 1] ↔ latents `[..., channels, H/factor, W/factor]`, variance near 1.

    Any axes may stand before the channels: images and clips alike. Latents have the dtype of the images, and
    decoded images that of the latents.
    """

    channels: int
    factor: int

    @abstractmethod
    def encode(
        self, images: Tensor, *, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Latents of `images`, without gradient.

        Args:
            sample: draw from the posterior instead of taking its mode. Codecs that encode to a single point
                give the same either way.

        Raises:
            ValueError: height or width is not a multiple of `factor`.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images of `latents`, not clamped; differentiable in `latents`, for losses on the clean estimate."""

    def _check_size(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(f"images of {height}x{width} pixels: both must be multiples of {self.factor}")


class PixelCodec(LatentCodec):
    """Space to depth: factor x factor pixels become the channels of one latent. Exactly invertible.

    Needs no weights. Channels are ordered colour first, then row and column inside the block.

    Args:
        factor: side of a block; latents have 3·factor² channels.
    """

    # Pixels of portraits in [-1, 1] have a standard deviation near 0.5. A power of two loses no bit.
    SCALE = 2.0

    def __init__(self, factor: int) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"factor must be at least 1, not {factor}")
        self.factor = factor
        self.channels = 3 * factor**2

    @torch.no_grad()
    def encode(
        self, images: Tensor, *, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        self._check_size(images)
        return F.pixel_unshuffle(images, self.factor) * self.SCALE

    def decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents / self.SCALE, self.factor)


class VAECodec(LatentCodec):
    """A frozen image VAE (diffusers' `AutoencoderKL`: SD, SDXL, Flux), run on a few frames at a time.

    Latents are (z − shift_factor)·scaling_factor, both from the VAE's config. The VAE computes in its own
    dtype, stays in eval mode and gets no gradients.

    Args:
        vae: kept as submodule `vae`; its parameters are frozen.
        chunk: frames in one pass, which bounds the memory; the result does not depend on it.
    """

    def __init__(self, vae: "AutoencoderKL", *, chunk: int = 8) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, not {chunk}")
        self.vae = vae.requires_grad_(False).eval()
        self.chunk = chunk
        self.channels = vae.config["latent_channels"]
        self.factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self._scale = vae.config["scaling_factor"]
        self._shift = vae.config["shift_factor"] or 0.0

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode whatever the training loop asks for."""
        return super().train(False)

    @torch.no_grad()
    def encode(
        self, images: Tensor, *, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        self._check_size(images)
        posteriors = [
            self.vae.encode(chunk.to(self.vae.dtype)).latent_dist
            for chunk in images.reshape(-1, *images.shape[-3:]).split(self.chunk)
        ]
        latents = torch.cat([posterior.mode() for posterior in posteriors]).to(images.dtype)
        if sample:
            # One draw for all frames: split over the chunks, the noise would depend on their size.
            std = torch.cat([posterior.std for posterior in posteriors])
            latents = latents + std * draw_noise(latents.shape, device=latents.device, generator=generator)
        latents = (latents - self._shift) * self._scale
        return latents.to(images.dtype).reshape(*images.shape[:-3], *latents.shape[-3:])

    def decode(self, latents: Tensor) -> Tensor:
        unscaled = (latents / self._scale + self._shift).to(self.vae.dtype)
        chunks = unscaled.reshape(-1, *latents.shape[-3:]).split(self.chunk)
        images = torch.cat([self.vae.decode(chunk).sample for chunk in chunks])
        return images.to(latents.dtype).reshape(*latents.shape[:-3], *images.shape[-3:])
