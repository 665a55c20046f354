"""CLIP image embeddings of every frame."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from portraitgen.data.features.feature import Unit, weights_digest
from portraitgen.data.pictures import SamplePictures
from portraitgen.data.sample import ClipSample
from portraitgen.runs.prepare.features.pretrained import load_pretrained

if TYPE_CHECKING:
    from portraitgen.nn.clip_image import ClipImageEncoder


@dataclass(frozen=True, slots=True)
class ClipEmbeddings:
    """What `ClipImageEncoder` makes of the frames: float16 [T, D], projected, not normalised.

    Attributes:
        model: folder or hub id of transformers' CLIPVisionModelWithProjection.
        device: "auto" takes a GPU where there is one.
        chunk: frames in one pass; the values do not depend on it.
    """

    model: str
    device: str = "auto"
    chunk: int = 32

    name: ClassVar[str] = "clip"
    batch_key: ClassVar[str] = "image_embeds"
    unit: ClassVar[Unit] = "frame"

    def depends_on(self) -> Mapping[str, Any]:
        return {"weights": weights_digest(_encoder(self.model, self.device))}

    def __call__(self, sample: ClipSample) -> np.ndarray:
        encoder, pictures = _encoder(self.model, self.device), SamplePictures(sample)
        embeds = []
        for start in range(0, sample.num_frames, self.chunk):
            count = min(self.chunk, sample.num_frames - start)
            frames = pictures.rgb(start, count, device=str(encoder.model.device))
            embeds.append(encoder(frames)[:, 0].to(torch.float16).cpu().numpy())
        return np.concatenate(embeds)


@cache
def _encoder(model: str, device: str) -> "ClipImageEncoder":
    from transformers import CLIPVisionModelWithProjection

    from portraitgen.nn.clip_image import ClipImageEncoder

    loaded = load_pretrained(
        CLIPVisionModelWithProjection, model, setting="features.clip.model", device=device
    )
    return ClipImageEncoder(loaded).to(loaded.device)
