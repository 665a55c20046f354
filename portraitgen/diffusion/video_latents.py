"""Codecs of clips by causal video VAEs: 1 + 4k frames ↔ 1 + k latents, the first of them a single frame's.

A latent is made of its own frames and those before, and a frame of its own latent and those before. The VAEs
run along the clip part by part and keep of the parts before what their convolutions still need, so memory
does not grow with the length; parts are those of the VAE itself, since its group norms see a part at a time.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from portraitgen.diffusion.latent_scale import LatentScale
from portraitgen.diffusion.latents import FrozenVAE, LatentCodec, PixelCodec, Posterior
from portraitgen.diffusion.noise import Generators
from portraitgen.diffusion.tiles import Tiles, decode_tiles

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKLCogVideoX, AutoencoderKLWan

_Caches = dict[tuple[int, int, int], Any]
"""What is kept between two parts, by sample and tile."""


class PixelVideoCodec(LatentCodec):
    """Space and time to depth: `time_factor` frames of `PixelCodec` become the channels of one latent.

    Needs no weights. The first latent holds the first frame `time_factor` times, of which decoding shows the
    mean; all others are exactly invertible.

    Args:
        factor: side of a block of pixels; latents have 3·factor²·time_factor channels, those of a frame
            together.
        time_factor: frames of a latent.
    """

    def __init__(self, factor: int, *, time_factor: int = 4) -> None:
        super().__init__()
        if time_factor < 1:
            raise ValueError(f"time_factor must be at least 1, not {time_factor}")
        self._pixels = PixelCodec(factor)
        self.factor, self.time_factor = factor, time_factor
        self.channels = self._pixels.channels * time_factor

    @torch.no_grad()
    def encode(self, images: Tensor, *, sample: bool = False, generator: Generators | None = None) -> Tensor:
        count = self.num_latents(images.shape[-4])
        folded = self._pixels.encode(images)
        first = folded[..., :1, :, :, :]
        whole = torch.cat([*[first] * (self.time_factor - 1), folded], dim=-4)
        return whole.unflatten(-4, (count, self.time_factor)).flatten(-4, -3)

    def decode(self, latents: Tensor) -> Tensor:
        folded = latents.unflatten(-3, (self.time_factor, -1))
        first = folded[..., 0, :, :, :, :].mean(dim=-4, keepdim=True)
        rest = folded[..., 1:, :, :, :, :].flatten(-5, -4)
        return self._pixels.decode(torch.cat([first, rest], dim=-4))

    def stream(self, latents: Tensor, *, frames: int = 8) -> Iterator[Tensor]:
        """As `LatentCodec.stream`."""
        at_once = max(1, frames // self.time_factor)
        for start in range(0, latents.shape[1], at_once):
            yield self.decode_span(latents, start, min(start + at_once, latents.shape[1]))

    def decode_span(self, latents: Tensor, start: int, stop: int, *, context: int | None = None) -> Tensor:
        """As `LatentCodec.decode_span`: no latent needs another."""
        first = max(start - 1, 0)  # its frames are shown whole only if it is not the first
        frames = self.decode(latents[:, first:stop])
        return frames[:, 1:] if start else frames


class VideoCodec(FrozenVAE):
    """Clips `[B, T, 3, H, W]` in [-1, 1] ↔ latents `[B, t, C, h, w]`, T = 1 + time_factor·(t − 1).

    More axes may stand before time. What comes out is what the VAE's own `encode` and `decode` give.

    Args:
        vae: see `FrozenVAE`.
        channels: see `FrozenVAE`.
        tiling: run on overlapping tiles of the picture, which bounds the memory of large ones and changes the
            result a little at the seams; the size of the tiles is the VAE's.
        slicing: run on one clip of a batch at a time; the result does not depend on it.
    """

    time_factor = 4

    def __init__(self, vae: Any, *, channels: int, tiling: bool, slicing: bool) -> None:
        super().__init__(vae, channels=channels)
        if tiling:
            self.vae.enable_tiling()
        if slicing:
            self.vae.enable_slicing()

    def _moments(self, images: Tensor) -> Posterior:
        self._check_size(images)
        self.num_latents(images.shape[-4])
        clips = images.reshape(-1, *images.shape[-4:]).transpose(1, 2)
        found = self.vae.encode(clips.to(self.vae.dtype)).latent_dist
        mean, std = (
            each.transpose(1, 2).reshape(*images.shape[:-4], each.shape[2], each.shape[1], *each.shape[-2:])
            for each in (found.mode(), found.std)
        )
        return Posterior(mean.to(images.dtype), std)

    def decode(self, latents: Tensor) -> Tensor:
        clips = latents.reshape(-1, *latents.shape[-4:])
        frames = torch.cat([*self.stream(clips)], dim=1)
        return frames.reshape(*latents.shape[:-4], *frames.shape[1:])

    def stream(self, latents: Tensor, *, frames: int = 8) -> Iterator[Tensor]:
        """As `LatentCodec.stream`, in the VAE's own parts, of 4 to 9 frames, whatever `frames` says."""
        caches: _Caches = {}
        for part in self._parts(latents.shape[1]):
            yield self._decode_part(latents, part, caches)

    def decode_span(self, latents: Tensor, start: int, stop: int, *, context: int | None = None) -> Tensor:
        """The frames that latents `start` to `stop` of clips `[B, t, C, h, w]` stand for, see `frames_of`.

        Gradients reach the latents of the parts that are shown and stop there: what lies before is decoded
        without, for what the convolutions need of it, so that memory does not grow with it.

        Args:
            context: latents before `start` that are decoded as well, at least 1; None: all of them, and the
                frames are those of the whole clip. With fewer the clip is taken to begin there: cheaper, and
                wrong by what the latents left out would have said.

        Raises:
            ValueError: the span is empty or not in the clip, or there is no context.
        """
        if not 0 <= start < stop <= latents.shape[1]:
            raise ValueError(f"latents {start} to {stop} of a clip that has {latents.shape[1]}")
        if context is not None and context < 1:
            raise ValueError(f"context is {context}: give at least 1 latent, or None for all before the span")
        if context is not None and context < start:
            first = start - context
            latents, start, stop = latents[:, first:stop], start - first, stop - first
        caches: _Caches = {}
        kept, begin = [], 0
        wanted = self.frames_of(start, stop)
        for part in self._parts(latents.shape[1]):
            if part.start >= stop:
                break
            with torch.set_grad_enabled(torch.is_grad_enabled() and part.stop > start):
                frames = self._decode_part(latents, part, caches)
            if part.stop > start:
                kept.append(frames[:, max(wanted.start - begin, 0) : wanted.stop - begin])
            begin += frames.shape[1]
        return torch.cat(kept, dim=1)

    def _decode_part(self, latents: Tensor, part: slice, caches: _Caches) -> Tensor:
        z = self._scale.invert(latents[:, part]).to(self.vae.dtype).transpose(1, 2)
        samples = z.split(1) if self.vae.use_slicing else [z]
        tiles, first = self._tiles(z), part.start == 0
        decoded = []
        for number, sample in enumerate(samples):

            def decode_tile(tile: Tensor, row: int, column: int, number: int = number) -> Tensor:
                place = (number, row, column)
                frames, caches[place] = self._run_decoder(tile, caches.get(place), first)
                return frames

            decoded.append(
                decode_tile(sample, 0, 0)
                if tiles is None
                else decode_tiles(decode_tile, sample, tiles, self.vae)
            )
        frames = self._finished(torch.cat(decoded))
        return self._without_copies(frames, part).to(latents.dtype).transpose(1, 2)

    def _without_copies(self, frames: Tensor, part: slice) -> Tensor:
        """`frames` `[B, 3, n, H, W]` with the first latent's single frame shown once."""
        expected = self.frames_of(part.start, part.stop)
        return frames[:, :, frames.shape[2] - (expected.stop - expected.start) :]

    @abstractmethod
    def _parts(self, num_latents: int) -> Iterator[slice]:
        """The latents that the VAE decodes together."""

    @abstractmethod
    def _run_decoder(self, z: Tensor, cache: Any, first: bool) -> tuple[Tensor, Any]:
        """Frames of a part `[B, C, n, h, w]`, and what the next part needs of it."""

    @abstractmethod
    def _tiles(self, z: Tensor) -> Tiles | None:
        """How the VAE cuts pictures of this size; None: not at all."""

    def _finished(self, frames: Tensor) -> Tensor:
        return frames


class CogVideoXCodec(VideoCodec):
    """A frozen `AutoencoderKLCogVideoX` (CogVideoX, ConsisID): 49 frames of 480x720 ↔ 13 latents of 60x90.

    Of an even number of latents (1 + 8k + 4 frames) the VAE itself shows the first frame four times, since it
    keeps it single in odd parts only; here it is shown once.

    Args:
        vae, tiling, slicing: see `VideoCodec`.
    """

    def __init__(self, vae: "AutoencoderKLCogVideoX", *, tiling: bool = False, slicing: bool = False) -> None:
        super().__init__(vae, channels=vae.config["latent_channels"], tiling=tiling, slicing=slicing)
        self.factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.time_factor = int(vae.config["temporal_compression_ratio"])

    @torch.no_grad()
    def encode_image(
        self, images: Tensor, *, sample: bool = False, generator: Generators | None = None
    ) -> Tensor:
        """As `LatentCodec.encode_image`. Where the config says `invert_scale_latents`, conditions are divided
        by the scaling factor, which those weights were trained with (`CogVideoXImageToVideoPipeline`).
        """
        moments = self._moments(images.unsqueeze(-4))
        return self._scaled(moments, self._image_scale, sample=sample, generator=generator)

    @torch.no_grad()
    def image_posterior(self, images: Tensor) -> Posterior:
        """As `LatentCodec.image_posterior`, scaled as `encode_image` scales."""
        return self._scaled_posterior(self._moments(images.unsqueeze(-4)), self._image_scale)

    @property
    def _image_scale(self) -> LatentScale:
        if not self.vae.config["invert_scale_latents"]:
            return self._scale
        assert isinstance(self._scale.scale, float)
        return replace(self._scale, scale=1 / self._scale.scale)

    def _parts(self, num_latents: int) -> Iterator[slice]:
        size = self.vae.num_latent_frames_batch_size
        rest = num_latents % size
        ends = [*range(size + rest, num_latents + 1, size)] or [num_latents]
        for start, end in zip([0, *ends], ends, strict=False):
            yield slice(start, end)

    def _run_decoder(self, z: Tensor, cache: Any, first: bool) -> tuple[Tensor, Any]:
        if self.vae.post_quant_conv is not None:
            z = self.vae.post_quant_conv(z)
        frames, cache = self.vae.decoder(z, conv_cache=cache)
        return frames, cache

    def _tiles(self, z: Tensor) -> Tiles | None:
        vae = self.vae
        size = (vae.tile_latent_min_height, vae.tile_latent_min_width)
        if not vae.use_tiling or (z.shape[-2] <= size[0] and z.shape[-1] <= size[1]):
            return None
        overlap = (vae.tile_overlap_factor_height, vae.tile_overlap_factor_width)
        pixels = (vae.tile_sample_min_height, vae.tile_sample_min_width)
        blend = (int(pixels[0] * overlap[0]), int(pixels[1] * overlap[1]))
        return Tiles(
            size=size,
            stride=(int(size[0] * (1 - overlap[0])), int(size[1] * (1 - overlap[1]))),
            blend=blend,
            keep=(pixels[0] - blend[0], pixels[1] - blend[1]),
            factor=self.factor,
        )


class WanCodec(VideoCodec):
    """A frozen `AutoencoderKLWan` (Wan 2.1: factor 8, Wan 2.2: factor 16 by patches), one latent at a time.

    Args:
        vae, tiling, slicing: see `VideoCodec`.
    """

    def __init__(self, vae: "AutoencoderKLWan", *, tiling: bool = False, slicing: bool = False) -> None:
        super().__init__(vae, channels=vae.config["z_dim"], tiling=tiling, slicing=slicing)
        self._patch = vae.config["patch_size"] or 1
        self.factor = self._patch * 2 ** (len(vae.config["dim_mult"]) - 1)
        self.time_factor = 2 ** sum(vae.config["temperal_downsample"])

    def _parts(self, num_latents: int) -> Iterator[slice]:
        return (slice(number, number + 1) for number in range(num_latents))

    def _run_decoder(self, z: Tensor, cache: Any, first: bool) -> tuple[Tensor, Any]:
        # The decoder writes to places of its own in the list, one for each convolution in time.
        cache = [None] * sum(1 for _ in self.vae.decoder.modules()) if cache is None else cache
        z = self.vae.post_quant_conv(z)
        return self.vae.decoder(z, feat_cache=cache, feat_idx=[0], first_chunk=first), cache

    def _tiles(self, z: Tensor) -> Tiles | None:
        vae, factor = self.vae, self.vae.spatial_compression_ratio
        pixels = (vae.tile_sample_min_height, vae.tile_sample_min_width)
        stride = (vae.tile_sample_stride_height, vae.tile_sample_stride_width)
        size = (pixels[0] // factor, pixels[1] // factor)
        if not vae.use_tiling or (z.shape[-2] <= size[0] and z.shape[-1] <= size[1]):
            return None
        patch = self._patch
        keep = (stride[0] // patch, stride[1] // patch)
        return Tiles(
            size=size,
            stride=(stride[0] // factor, stride[1] // factor),
            blend=(pixels[0] // patch - keep[0], pixels[1] // patch - keep[1]),
            keep=keep,
            factor=factor // patch,
        )

    def _finished(self, frames: Tensor) -> Tensor:
        """Patches to pixels, as the VAE's own `decode` does; unlike there nothing is clamped."""
        if self._patch == 1:
            return frames
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        return unpatchify(frames, patch_size=self._patch)
