"""Latents of every frame, so that training need not decode and encode pictures again and again."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from portraitgen.data.features.feature import Unit, weights_digest
from portraitgen.data.pictures import SamplePictures
from portraitgen.data.sample import ClipSample, DataError
from portraitgen.runs.prepare.features.pretrained import load_pretrained

if TYPE_CHECKING:
    from portraitgen.diffusion.latents import VAECodec


@dataclass(frozen=True, slots=True)
class VAELatents:
    """What `VAECodec` makes of the frames: float16 [T, C, h, w], scaled, the posterior's mode; or its
    distribution, [T, 2, C, h, w], mean and standard deviation.

    Attributes:
        model: folder or hub id of diffusers' AutoencoderKL.
        subfolder: of it, such as "vae" in a pipeline's folder.
        distribution: for training that draws from the posterior: twice the bytes.
        device: "auto" takes a GPU where there is one.
        chunk: frames in one pass; the values do not depend on it.
    """

    model: str
    subfolder: str | None = None
    distribution: bool = False
    device: str = "auto"
    chunk: int = 8

    name: ClassVar[str] = "vae"
    unit: ClassVar[Unit] = "frame"

    @property
    def batch_key(self) -> str:
        return "latent_distribution" if self.distribution else "latents"

    def depends_on(self) -> Mapping[str, Any]:
        codec = _codec(self.model, self.subfolder, self.device)
        kept = ("scaling_factor", "shift_factor")
        return {"weights": weights_digest(codec), **{name: codec.vae.config[name] for name in kept}}

    def __call__(self, sample: ClipSample) -> np.ndarray:
        codec = _codec(self.model, self.subfolder, self.device)
        if sample.height % codec.factor or sample.width % codec.factor:
            raise DataError(
                f"{sample.height}x{sample.width} pixels: the VAE needs multiples of {codec.factor}"
            )
        pictures = SamplePictures(sample)
        latents = []
        for start in range(0, sample.num_frames, self.chunk):
            count = min(self.chunk, sample.num_frames - start)
            frames = pictures.rgb(start, count, device=str(codec.vae.device))
            found = codec.posterior(frames).packed() if self.distribution else codec.encode(frames)
            latents.append(found.to(torch.float16).cpu().numpy())
        return np.concatenate(latents)


@cache
def _codec(model: str, subfolder: str | None, device: str) -> "VAECodec":
    from diffusers.models import AutoencoderKL

    from portraitgen.diffusion.latents import VAECodec

    options = {} if subfolder is None else {"subfolder": subfolder}
    vae = load_pretrained(AutoencoderKL, model, setting="features.vae.model", device=device, **options)
    return VAECodec(vae, chunk=64)
