"""Latents of the face's picture with noise on it, so that a training step needs no VAE."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from portraitgen.data.features.feature import weights_digest
from portraitgen.data.sample import DataError
from portraitgen.diffusion.image_condition import ReferenceNoise, stretched
from portraitgen.faces.key_point_drawing import draw_key_points
from portraitgen.runs.prepare.features.video_vae import video_codec

if TYPE_CHECKING:
    from portraitgen.diffusion.latents import LatentCodec


@dataclass(frozen=True, slots=True)
class FaceLatents:
    """Of each face some versions, each noised by itself, of which training draws one and from its posterior.

    The noise lies on the pixels, before the VAE, so of what a step would encode there can be no distribution
    but samples: these are `versions` of them. A clip that is seen E times with F faces comes again with the
    same noise where E is more than about F·versions.

    Attributes:
        model, subfolder, dtype: of the video VAE, see `VideoLatents`; without `model` nothing is stored.
        versions: of each face.
        mean, std: of the noise, see `ReferenceNoise`; those of the training, `model.reference_noise`.
        key_points: also of the key points as a picture, for networks that are shown them
            (model.network.transformer.is_kps).
        device: "auto" takes a GPU where there is one.
    """

    model: str | None = None
    subfolder: str | None = None
    versions: int = 4
    mean: float = -3.0
    std: float = 0.5
    key_points: bool = False
    device: str = "auto"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.versions < 1:
            raise ValueError(f"features.face.latents.versions={self.versions}: give at least 1")
        if self.std < 0:
            raise ValueError(f"features.face.latents.std={self.std}: give 0 or more")

    def depends_on(self) -> Mapping[str, Any]:
        """See `Feature.depends_on`."""
        names = ("versions", "mean", "std", "key_points", "dtype")
        return {"weights": weights_digest(self._codec()), **{name: getattr(self, name) for name in names}}

    def __call__(self, picture: Tensor, key_points: Tensor, size: tuple[int, int], *, source: str) -> Tensor:
        """float16 [versions, n, 2, C, h, w]: mean and standard deviation of the posterior of each version of
        the picture and, where they are asked for, of the drawn key points.

        Args:
            picture: uint8 [S, S, 3] of the face.
            key_points: [5, 2] in its pixels.
            size: (height, width) of the video in pixels.
            source: name of the face, from which the noise follows.

        Raises:
            DataError: the VAE takes no pictures of that size.
        """
        codec = self._codec()
        if size[0] % codec.factor or size[1] % codec.factor:
            raise DataError(f"{size[0]}x{size[1]} pixels: the VAE needs multiples of {codec.factor}")
        shown = [picture]
        if self.key_points:
            canvas = (picture.shape[0], picture.shape[1])
            shown.append(torch.from_numpy(draw_key_points(key_points.cpu().numpy(), canvas)))
        noise = ReferenceNoise(mean=self.mean, std=self.std)
        packed = []
        for number, each in enumerate(shown):
            noised = noised_versions(each, size, noise, self.versions, source=f"{source} {number}")
            packed.append(packed_latents(codec, noised.to(codec.vae.device)))
        return torch.stack(packed, dim=1).to(torch.float16)

    def _codec(self) -> Any:
        assert self.model is not None, "nothing is to be stored"
        return video_codec(
            self.model,
            self.subfolder,
            setting="features.face.latents",
            tiling=False,
            device=self.device,
            dtype=self.dtype,
        )


def noised_versions(
    picture: Tensor, size: tuple[int, int], noise: ReferenceNoise, versions: int, *, source: str
) -> Tensor:
    """Versions [versions, 3, H, W], on the CPU, of a picture uint8 [S, S, 3]; see `FaceLatents`.

    Args:
        source: name of the face and of the picture, from which the noise follows.
    """
    levels = picture.cpu().movedim(-1, 0)[None].float() / 127.5 - 1
    shown = stretched(levels, size).expand(versions, -1, -1, -1)
    return noise(shown, generator=torch.Generator().manual_seed(zlib.crc32(source.encode())))


def packed_latents(codec: "LatentCodec", pictures: Tensor) -> Tensor:
    """[n, 2, C, h, w]: what `encode_image` draws from of each of n pictures [n, 3, H, W]."""
    return codec.image_posterior(pictures).packed()[:, 0]


def source_name(key: str, person: int, frame: int) -> str:
    """A face's name: of a person in a frame of the sample `key`. Its pictures are numbered, from 0 on."""
    return f"{key} {person} {frame}"
