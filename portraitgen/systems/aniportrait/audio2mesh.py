"""Audio2Mesh: from speech to the movement of the face's vertices (AniPortrait, section 3.1)."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from portraitgen.nn.speech import build_speech_encoder, encode_speech, standardise
from portraitgen.systems.aniportrait.sound_chunks import count_frames, sound_chunks


class Audio2Mesh(nn.Module):
    """wav2vec 2.0 and two linear layers, with the published names. A fresh one moves nothing.

    Args:
        audio_encoder: options of transformers' ``Wav2Vec2Config``; {} is wav2vec2-base.
        hidden_size: width between the two linear layers.
        num_points: of the face: 468 vertices of MediaPipe's mesh, or the landmarks of another scheme.
        coordinates: of a point: 3 for vertices in cm, 2 for landmarks in the plane.

    Raises:
        ValueError: unknown option of the audio encoder (named).
    """

    def __init__(
        self,
        *,
        audio_encoder: Mapping[str, Any],
        hidden_size: int = 512,
        num_points: int = 468,
        coordinates: Literal[2, 3] = 3,
    ) -> None:
        super().__init__()
        self.audio_encoder = build_speech_encoder(audio_encoder)
        self.in_fn = nn.Linear(self.audio_encoder.config.hidden_size, hidden_size)
        self.num_points, self.coordinates = num_points, coordinates
        self.out_fn = nn.Linear(hidden_size, coordinates * num_points)
        nn.init.zeros_(self.out_fn.weight)
        nn.init.zeros_(self.out_fn.bias)

    def forward(self, waveform: Tensor, num_frames: int) -> Tensor:
        """Offsets [B, T, K, 3 or 2] from the neutral face, of the T = `num_frames` frames of a sound.

        `waveform` is float [B, N], standardised, 16 kHz.
        """
        features = encode_speech(self.audio_encoder, waveform, num_frames)
        return self.out_fn(self.in_fn(features)).unflatten(-1, (self.num_points, self.coordinates))


@torch.no_grad()
def offsets_of_sound(
    model: Audio2Mesh,
    waveform: Tensor,
    *,
    frame_rate: Fraction | float = 30,
    chunk_frames: int = 1800,
    overlap_frames: int = 15,
) -> np.ndarray:
    """The face's movement during a sound of any length, added to the reference's points to make it speak.

    Args:
        model: in eval mode.
        waveform: float [N], 16 kHz mono, as loud as it comes.
        frame_rate: of the video; the published model was trained at 30.
        chunk_frames: frames that are run at once, a minute: bounds the memory. Shorter sounds are run whole,
            as upstream does with all.
        overlap_frames: frames over which one chunk fades into the next.

    Returns:
        float32 [T, K, 3 or 2], T the video frames that the sound lasts.

    Raises:
        ValueError: an empty sound, or an overlap that is longer than a chunk.
    """
    chunks = sound_chunks(
        len(waveform), frame_rate=frame_rate, chunk_frames=chunk_frames, overlap_frames=overlap_frames
    )
    waveform = standardise(waveform)
    total = count_frames(len(waveform), frame_rate)
    offsets = np.zeros((total, model.num_points, model.coordinates), np.float32)
    for chunk in chunks:
        heard = waveform[None, chunk.first_sample : chunk.end_sample]
        found = model(heard, chunk.num_frames)[0].float().cpu().numpy()
        fade = np.arange(1, chunk.overlap + 1, dtype=np.float32)[:, None, None] / (chunk.overlap + 1)
        place = offsets[chunk.first_frame : chunk.end_frame]
        found[: chunk.overlap] = (1 - fade) * place[: chunk.overlap] + fade * found[: chunk.overlap]
        place[:] = found
    return offsets
