"""Codecs between pixels and the latents that a diffusion model works on; they have no trainable weights.

Those of images are here, those of clips with fewer latents than frames in `video_latents`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from portraitgen.diffusion.latent_scale import LatentScale
from portraitgen.diffusion.noise import Generators, draw_noise

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL


class Posterior(NamedTuple):
    """What a codec knows of the latents of images: a normal distribution for each number, in latent units."""

    mean: Tensor
    std: Tensor

    @classmethod
    def unpacked(cls, packed: Tensor) -> "Posterior":
        """Inverse of `packed`."""
        return cls(*packed.unbind(-4))

    def packed(self) -> Tensor:
        """Mean and standard deviation in one tensor, `[..., 2, C, h, w]`, for storage."""
        return torch.stack([self.mean, self.std], dim=-4)

    def draw(self, *, generator: Generators | None = None) -> Tensor:
        """One sample."""
        noise = draw_noise(self.mean.shape, device=self.mean.device, generator=generator)
        return (self.mean + self.std * noise).to(self.mean.dtype)


class LatentCodec(nn.Module, ABC):
    """Images `[..., 3, H, W]` in [-1, 1] ↔ latents `[..., channels, H/factor, W/factor]`, variance near 1.

    Any axes may stand before the channels: images and clips alike. Where `time_factor` is not 1, the axis
    before the channels is time, and 1 + time_factor·k frames ↔ 1 + k latents. Latents have the dtype of the
    images, and decoded images that of the latents.

    `factor` and `time_factor` of a class are those of the autoencoders that were published for it, before one
    is loaded; of an object they are its own.
    """

    channels: int
    factor: int = 8
    time_factor: int = 1

    @abstractmethod
    def encode(self, images: Tensor, *, sample: bool = False, generator: Generators | None = None) -> Tensor:
        """Latents of `images`, without gradient.

        Args:
            sample: draw from the posterior instead of taking its mode. Codecs that encode to a single point
                give the same either way.

        Raises:
            ValueError: height or width is not a multiple of `factor`, or the number of frames does not fit.
        """

    def posterior(self, images: Tensor) -> Posterior:
        """The distribution that `encode` draws from, without gradient; errors as there.

        Here that of codecs that encode to a single point.
        """
        latents = self.encode(images)
        return Posterior(latents, torch.zeros_like(latents))

    def encode_image(
        self, images: Tensor, *, sample: bool = False, generator: Generators | None = None
    ) -> Tensor:
        """Latents `[B, 1, C, h, w]` of pictures `[B, 3, H, W]` that a clip is made from, as conditions."""
        return self.encode(images.unsqueeze(-4), sample=sample, generator=generator)

    def image_posterior(self, images: Tensor) -> Posterior:
        """The distribution, `[B, 1, C, h, w]` each, that `encode_image` draws from, without gradient."""
        return self.posterior(images.unsqueeze(-4))

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images of `latents`, not clamped; differentiable in `latents`, for losses on the clean estimate."""

    def stream(self, latents: Tensor, *, frames: int = 8) -> Iterator[Tensor]:
        """What `decode` gives of clips `[B, t, C, h, w]`, in parts of some frames, made when asked for.

        Args:
            frames: of a part, at most. Codecs with a time factor have parts of their own.
        """
        for part in latents.split(frames, dim=1):
            yield self.decode(part)

    def decode_span(self, latents: Tensor, start: int, stop: int, *, context: int | None = None) -> Tensor:
        """The frames that latents `start` to `stop` of clips `[B, t, C, h, w]` stand for, see `frames_of`.

        Args:
            context: latents before `start` that are looked at, see `VideoCodec.decode_span`; image codecs
                need none.
        """
        return self.decode(latents[:, start:stop])

    def num_latents(self, num_frames: int) -> int:
        """Latents that so many frames become.

        Raises:
            ValueError: the number of frames is not 1 + time_factor·k.
        """
        if num_frames < 1 or (num_frames - 1) % self.time_factor:
            below = max(num_frames - 1, 0) // self.time_factor * self.time_factor + 1
            raise ValueError(
                f"clips of {num_frames} frames: this codec takes 1 + {self.time_factor}k frames, such as"
                f" {below} or {below + self.time_factor}"
            )
        return 1 + (num_frames - 1) // self.time_factor

    def num_frames(self, num_latents: int) -> int:
        """Frames that so many latents become."""
        return 1 + (num_latents - 1) * self.time_factor

    def frames_of(self, start: int, stop: int) -> slice:
        """Which frames of a clip its latents `start` to `stop` stand for: the first one for a single frame,
        each other for `time_factor`.
        """
        return slice(self.num_frames(start) if start else 0, self.num_frames(stop))

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
    def encode(self, images: Tensor, *, sample: bool = False, generator: Generators | None = None) -> Tensor:
        self._check_size(images)
        return F.pixel_unshuffle(images, self.factor) * self.SCALE

    def decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents / self.SCALE, self.factor)


class FrozenVAE(LatentCodec):
    """What codecs around a frozen VAE share: scaled latents, eval mode, no gradients to the weights.

    The VAE computes in its own dtype.

    Args:
        vae: an autoencoder of diffusers, kept as submodule `vae`; its parameters are frozen.
        channels: of its latents.
    """

    def __init__(self, vae: Any, *, channels: int) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False).eval()
        self.channels = channels
        self._scale = LatentScale.of_config(vae.config, channels)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode whatever the training loop asks for."""
        return super().train(False)

    @abstractmethod
    def _moments(self, images: Tensor) -> Posterior:
        """The posterior in the VAE's own units: the mean in the dtype of the images."""

    @torch.no_grad()
    def encode(self, images: Tensor, *, sample: bool = False, generator: Generators | None = None) -> Tensor:
        return self._scaled(self._moments(images), self._scale, sample=sample, generator=generator)

    def _scaled(
        self, moments: Posterior, scale: LatentScale, *, sample: bool, generator: Generators | None
    ) -> Tensor:
        latents, dtype = moments.mean, moments.mean.dtype
        if sample:
            noise = draw_noise(latents.shape, device=latents.device, generator=generator)
            latents = latents + moments.std * noise
        return scale.apply(latents).to(dtype)

    @torch.no_grad()
    def posterior(self, images: Tensor) -> Posterior:
        return self._scaled_posterior(self._moments(images), self._scale)

    def _scaled_posterior(self, moments: Posterior, scale: LatentScale) -> Posterior:
        mean, std = moments
        return Posterior(scale.apply(mean).to(mean.dtype), scale.apply_to_std(std).to(mean.dtype))


class VAECodec(FrozenVAE):
    """A frozen image VAE (diffusers' `AutoencoderKL`: SD, SDXL, Flux), run on a few frames at a time.

    Args:
        vae: see `FrozenVAE`.
        chunk: frames in one pass, which bounds the memory; the result does not depend on it.
        gradient_checkpointing: where a loss looks at decoded pictures, run the decoder's blocks again for the
            gradient; it is equal. The identity loss runs the decoder of one sample again anyway: this is for
            large pictures, of which the activations of one are too many.
    """

    def __init__(self, vae: "AutoencoderKL", *, chunk: int = 8, gradient_checkpointing: bool = False) -> None:
        super().__init__(vae, channels=vae.config["latent_channels"])
        if gradient_checkpointing:
            vae.enable_gradient_checkpointing()
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, not {chunk}")
        self.chunk = chunk
        self.factor = 2 ** (len(vae.config["block_out_channels"]) - 1)

    def _moments(self, images: Tensor) -> Posterior:
        self._check_size(images)
        posteriors = [
            self.vae.encode(chunk.to(self.vae.dtype)).latent_dist
            for chunk in images.reshape(-1, *images.shape[-3:]).split(self.chunk)
        ]
        # One draw for all frames: split over the chunks, the noise would depend on their size.
        mean = torch.cat([posterior.mode() for posterior in posteriors]).to(images.dtype)
        std = torch.cat([posterior.std for posterior in posteriors])
        shape = (*images.shape[:-3], *mean.shape[-3:])
        return Posterior(mean.reshape(shape), std.reshape(shape))

    def decode(self, latents: Tensor) -> Tensor:
        unscaled = self._scale.invert(latents).to(self.vae.dtype)
        chunks = unscaled.reshape(-1, *latents.shape[-3:]).split(self.chunk)
        images = torch.cat([self.vae.decode(chunk).sample for chunk in chunks])
        return images.to(latents.dtype).reshape(*latents.shape[:-3], *images.shape[-3:])
