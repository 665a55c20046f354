"""Hidden states of a wav2vec 2.0 at the frame rate of the clip."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from portraitgen.data.features.feature import Unit, weights_digest
from portraitgen.data.sample import ClipSample, DataError
from portraitgen.media.audio import decode_wav
from portraitgen.runs.prepare.features.pretrained import load_pretrained

if TYPE_CHECKING:
    from transformers import Wav2Vec2Model


@dataclass(frozen=True, slots=True)
class SpeechStates:
    """Float16 [T, L, D] of clips with sound, heard as a whole: all L layers, or the last one (L = 1).

    All layers of a base model are 18 kB a frame, more than the video.

    Attributes:
        model: folder or hub id of transformers' Wav2Vec2Model.
        layers: "all" (as `encode_speech_layers`) or "last" (as `encode_speech`).
        device: "auto" takes a GPU where there is one.
    """

    model: str
    layers: str = "all"
    device: str = "auto"

    name: ClassVar[str] = "speech"
    batch_key: ClassVar[str] = "speech"
    unit: ClassVar[Unit] = "frame"

    def __post_init__(self) -> None:
        if self.layers not in ("all", "last"):
            raise ValueError(f"features.speech.layers={self.layers}: give all or last")

    def depends_on(self) -> Mapping[str, Any]:
        return {"weights": weights_digest(_encoder(self.model, self.device)), "layers": self.layers}

    @torch.no_grad()
    def __call__(self, sample: ClipSample) -> np.ndarray:
        from portraitgen.nn.speech import encode_speech, encode_speech_layers, standardise

        if sample.audio is None:
            raise DataError("has no sound")
        encoder = _encoder(self.model, self.device)
        sound, _ = decode_wav(sample.audio)
        samples = standardise(torch.from_numpy(sound)[None].to(encoder.device))
        if self.layers == "all":
            states = encode_speech_layers(encoder, samples, sample.num_frames)
        else:
            states = encode_speech(encoder, samples, sample.num_frames)[:, :, None]
        return states[0].to(torch.float16).cpu().numpy()


@cache
def _encoder(model: str, device: str) -> "Wav2Vec2Model":
    from transformers import Wav2Vec2Model

    return load_pretrained(Wav2Vec2Model, model, setting="features.speech.model", device=device)
