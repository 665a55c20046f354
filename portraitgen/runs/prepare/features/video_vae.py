"""Latents of windows: a video VAE makes of each latent what it has seen of the window before."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from portraitgen.data.clips import complete_starts
from portraitgen.data.features.feature import Unit, WindowValues, weights_digest
from portraitgen.data.pictures import SamplePictures
from portraitgen.data.sample import ClipSample, DataError
from portraitgen.runs.prepare.features.pretrained import load_pretrained, model_source

if TYPE_CHECKING:
    from portraitgen.diffusion.video_latents import VideoCodec

_SCALES = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")


@dataclass(frozen=True, slots=True)
class VideoLatents:
    """What `CogVideoXCodec` or `WanCodec` makes of windows: float16 [W, t, C, h, w], scaled, the posterior's
    mode; or its distribution, [W, t, 2, C, h, w], mean and standard deviation.

    Windows lie where a person is seen in all of their frames. These are the windows that training may choose.

    Attributes:
        model: folder or hub id of diffusers' AutoencoderKLCogVideoX or AutoencoderKLWan.
        subfolder: of it, such as "vae" in a pipeline's folder.
        frames: of a window, 1 + 4k.
        stride: distance between them.
        holes: so many frames in a row may be without the person between those of a window.
        every: distance between the starts of windows: less gives training more to choose from, and costs as
            many bytes more.
        distribution: for training that draws from the posterior: twice the bytes.
        tiling: encode large pictures in tiles; the values differ a little at the seams.
        device: "auto" takes a GPU where there is one.
        dtype: that the VAE computes in.
    """

    model: str
    subfolder: str | None = None
    frames: int = 49
    stride: int = 1
    holes: int = 0
    every: int = 12
    distribution: bool = True
    tiling: bool = False
    device: str = "auto"
    dtype: str = "float32"

    name: ClassVar[str] = "video_vae"
    unit: ClassVar[Unit] = "window"

    def __post_init__(self) -> None:
        for name, value in (("frames", self.frames), ("stride", self.stride), ("every", self.every)):
            if value < 1:
                raise ValueError(f"features.video_vae.{name}={value}: give at least 1")
        if self.holes < 0:
            raise ValueError(f"features.video_vae.holes={self.holes}: give 0 or more")

    @property
    def batch_key(self) -> str:
        return "latent_distribution" if self.distribution else "latents"

    def depends_on(self) -> Mapping[str, Any]:
        codec = self._codec()
        try:
            codec.num_latents(self.frames)
        except ValueError as error:
            raise ValueError(f"features.video_vae.frames: {error}") from error
        config = codec.vae.config
        return {
            "weights": weights_digest(codec),
            **{name: config[name] for name in _SCALES if name in config},
            **{name: getattr(self, name) for name in ("frames", "stride", "every", "tiling", "dtype")},
            # Absent where it is 0, so that features made before this setting keep their fingerprint.
            **({"holes": self.holes} if self.holes else {}),
        }

    def __call__(self, sample: ClipSample) -> WindowValues:
        codec = self._codec()
        if sample.height % codec.factor or sample.width % codec.factor:
            raise DataError(
                f"{sample.height}x{sample.width} pixels: the VAE needs multiples of {codec.factor}"
            )
        reach = (self.frames - 1) * self.stride + 1
        starts = window_starts(sample, self.frames, self.stride, every=self.every, holes=self.holes)
        if not starts:
            raise DataError(f"has no {reach} valid frames in a row")
        pictures = SamplePictures(sample)
        values = []
        for start in starts:
            shown = pictures.rgb(start, reach, device=str(codec.vae.device))[:: self.stride][None]
            found = codec.posterior(shown).packed() if self.distribution else codec.encode(shown)
            values.append(found[0].to(torch.float16).cpu().numpy())
        windows = [(start, self.stride, self.frames) for start in starts]
        return WindowValues(np.array(windows, np.int64), np.stack(values))

    def _codec(self) -> "VideoCodec":
        return video_codec(
            self.model,
            self.subfolder,
            setting="features.video_vae",
            tiling=self.tiling,
            device=self.device,
            dtype=self.dtype,
        )


def window_starts(sample: ClipSample, count: int, stride: int, *, every: int, holes: int = 0) -> list[int]:
    """First frames of windows of `count` frames, `stride` apart, in which a person is seen, increasing: of
    those that follow one another the first, and then every `every`-th.
    """
    found: set[int] = set()
    for track in sample.tracks:
        starts = complete_starts(track.valid, count, stride, holes=holes)
        begins = np.flatnonzero(np.diff(starts, prepend=-2) > 1)
        for run in np.split(starts, begins[1:]):
            found.update(run[::every].tolist())
    return sorted(found)


@cache
def video_codec(
    model: str, subfolder: str | None, *, setting: str, tiling: bool, device: str, dtype: str
) -> "VideoCodec":
    """A video VAE of diffusers, `model` and `dtype` of `setting` as messages call them; loaded once.

    Raises:
        ValueError: it cannot be had, or is no such VAE.
    """
    from diffusers.models import AutoencoderKLCogVideoX, AutoencoderKLWan

    from portraitgen.diffusion.video_latents import CogVideoXCodec, WanCodec

    options = {} if subfolder is None else {"subfolder": subfolder}
    precision = getattr(torch, dtype, None)
    if not isinstance(precision, torch.dtype):
        raise ValueError(f"{setting}.dtype={dtype}: give float32, bfloat16 or float16")
    codecs: dict[str, tuple[Any, Any]] = {
        "AutoencoderKLCogVideoX": (AutoencoderKLCogVideoX, CogVideoXCodec),
        "AutoencoderKLWan": (AutoencoderKLWan, WanCodec),
    }
    try:
        written = AutoencoderKLWan.load_config(model_source(model), **options)["_class_name"]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{setting}.model={model}: no VAE of diffusers there, neither as a folder nor on the hub"
            f" ({str(error).splitlines()[0]})"
        ) from error
    if written not in codecs:
        raise ValueError(f"{setting}.model={model} is an {written}: give one of {', '.join(codecs)}")
    kind, codec = codecs[written]
    vae = load_pretrained(kind, model, setting=f"{setting}.model", device=device, **options)
    loaded: VideoCodec = codec(vae.to(precision), tiling=tiling)
    return loaded
