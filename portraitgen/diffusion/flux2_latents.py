"""Latents of FLUX.2: 2x2 of its VAE's become one, normalised by the VAE's own batch norm."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from portraitgen.diffusion.latent_scale import LatentScale
from portraitgen.diffusion.latents import Posterior, VAECodec

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKLFlux2

_SIDE = 2


class Flux2Codec(VAECodec):
    """Of diffusers' `AutoencoderKLFlux2`, as `Flux2KleinPipeline` uses it: 128 channels, 16 pixels a latent.

    Args:
        vae, chunk: see `VAECodec`.
    """

    factor = VAECodec.factor * _SIDE

    def __init__(self, vae: "AutoencoderKLFlux2", *, chunk: int = 8) -> None:
        super().__init__(vae, chunk=chunk)  # type: ignore[arg-type]
        norm = vae.bn
        assert norm.running_mean is not None
        assert norm.running_var is not None
        std = (norm.running_var.double() + vae.config["batch_norm_eps"]).sqrt()
        self._scale = LatentScale(tuple(norm.running_mean.tolist()), tuple((1 / std).tolist()))
        self.channels *= _SIDE**2
        self.factor *= _SIDE

    def _moments(self, images: Tensor) -> Posterior:
        return Posterior(*(F.pixel_unshuffle(part, _SIDE) for part in super()._moments(images)))

    def decode(self, latents: Tensor) -> Tensor:
        unscaled = F.pixel_shuffle(self._scale.invert(latents), _SIDE).to(self.vae.dtype)
        chunks = unscaled.reshape(-1, *unscaled.shape[-3:]).split(self.chunk)
        images = torch.cat([self.vae.decode(chunk).sample for chunk in chunks])
        return images.to(latents.dtype).reshape(*latents.shape[:-3], *images.shape[-3:])
