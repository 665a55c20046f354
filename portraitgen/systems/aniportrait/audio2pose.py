"""Audio2Pose: from speech to head motion, one pose after the other (AniPortrait, section 3.1)."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from portraitgen.faces.head_pose import smooth_poses
from portraitgen.nn.aligned_decoder import AlignedDecoder, KeyValues
from portraitgen.nn.speech import build_speech_encoder, encode_speech, standardise
from portraitgen.systems.aniportrait.sound_chunks import sound_chunks

POSE_SIZE = 6
"""Head motion relative to the reference: turns about x, y and z in degrees and a shift in cm, or what
faces/planar_motion knows of it."""


class Audio2Pose(nn.Module):
    """wav2vec 2.0 and an autoregressive decoder that hears each frame as it draws its pose.

    Names are the published ones. Equal to the official model in evaluation, which runs the decoder over all
    poses again for each new one; here keys and values are kept.

    Args:
        audio_encoder: options of transformers' ``Wav2Vec2Config``; {} is wav2vec2-base.
        hidden_size: width of the decoder.
        num_layers: of the decoder.
        num_heads: of its attentions.
        num_identities: manners of moving that can be told apart.
        max_frames: longest sequence.
        dropout: of the decoder, in training.

    Raises:
        ValueError: unknown option of the audio encoder (named), or heads that do not fit `hidden_size`.
    """

    positions: Tensor

    def __init__(
        self,
        *,
        audio_encoder: Mapping[str, Any],
        hidden_size: int = 512,
        num_layers: int = 8,
        num_heads: int = 8,
        num_identities: int = 100,
        max_frames: int = 600,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.max_frames = max_frames
        self.audio_encoder = build_speech_encoder(audio_encoder)
        self.in_fn = nn.Linear(self.audio_encoder.config.hidden_size, hidden_size)
        self.pose_map = nn.Linear(POSE_SIZE, hidden_size)
        self.transformer_decoder = AlignedDecoder(
            hidden_size, num_layers=num_layers, num_heads=num_heads, dropout=dropout
        )
        self.pose_map_r = nn.Linear(hidden_size, POSE_SIZE)
        self.id_embed = nn.Embedding(num_identities, hidden_size)
        self.register_buffer("positions", _sinusoids(max_frames, hidden_size), persistent=False)

    def forward(self, waveform: Tensor, poses: Tensor, manner: Tensor) -> Tensor:
        """Each pose as predicted from the true ones before it: teacher forcing, for training.

        Args:
            waveform: float [B, N], standardised, 16 kHz, that sound during the T frames.
            poses: float [B, T, 6], see `POSE_SIZE`.
            manner: int [B].

        Returns:
            float [B, T, 6].

        Raises:
            ValueError: more frames than `max_frames`.
        """
        readings = self._read(waveform, poses.shape[1])
        predicted, _ = self._step(F.pad(poses[:, :-1], (0, 0, 1, 0)), readings, manner, 0, None)
        return predicted

    @torch.no_grad()
    def generate(
        self, waveform: Tensor, num_frames: int, manner: Tensor, *, first_poses: Tensor | None = None
    ) -> Tensor:
        """`unroll` without gradient."""
        return self.unroll(waveform, num_frames, manner, first_poses=first_poses)

    def unroll(
        self, waveform: Tensor, num_frames: int, manner: Tensor, *, first_poses: Tensor | None = None
    ) -> Tensor:
        """Poses [B, T, 6] of the T = `num_frames` frames of a sound, each predicted from those before.

        Args:
            waveform: float [B, N], standardised, 16 kHz, that sound during the T frames.
            manner: int [B].
            first_poses: float [B, P, 6], P < T: poses of the first frames that are known; the result begins
                with them and continues their motion.

        Raises:
            ValueError: more frames than `max_frames`.
        """
        readings = self._read(waveform, num_frames)
        if first_poses is None:
            first_poses = self.pose_map.weight.new_zeros(len(waveform), 0, POSE_SIZE)
        poses = [first_poses]
        # The first position is given a pose of zeros, all others the pose before theirs.
        given = F.pad(first_poses, (0, 0, 1, 0))
        past, position = None, 0
        while position + given.shape[1] <= num_frames:
            predicted, past = self._step(given, readings, manner, position, past)
            position += given.shape[1]
            given = predicted[:, -1:]
            poses.append(given)
        return torch.cat(poses, dim=1)

    def _read(self, waveform: Tensor, num_frames: int) -> list[Tensor]:
        """What each layer of the decoder takes from the sound at each of T frames: [B, T, D]."""
        if num_frames > self.max_frames:
            raise ValueError(
                f"{num_frames} frames are more than Audio2Pose's {self.max_frames} (max_frames): cut the "
                "sound into chunks"
            )
        memory = self.in_fn(encode_speech(self.audio_encoder, waveform, num_frames))
        return self.transformer_decoder.read(memory)

    def _step(
        self,
        given: Tensor,
        readings: list[Tensor],
        manner: Tensor,
        start: int,
        past: list[KeyValues] | None,
    ) -> tuple[Tensor, list[KeyValues]]:
        """Poses of the frames from `start` on, of which the poses before are `given`; and their `past`."""
        frames = slice(start, start + given.shape[1])
        hidden = self.pose_map(given) + self.positions[frames] + self.id_embed(manner)[:, None]
        hidden, past = self.transformer_decoder(hidden, [each[:, frames] for each in readings], past)
        return self.pose_map_r(hidden), past


def poses_of_sound(
    model: Audio2Pose,
    waveform: Tensor,
    *,
    manner: int,
    frame_rate: Fraction | float = 30,
    chunk_frames: int = 150,
    overlap_frames: int = 30,
    turn_scale: float = 0.5,
    window: int = 7,
) -> np.ndarray:
    """The head motion during a sound of any length, relative to the reference's pose.

    Apply it as ``reference_pose @ pose_matrices(poses)``.

    Args:
        model: in eval mode.
        waveform: float [N], 16 kHz mono, as loud as it comes.
        manner: manner of moving, below the model's `num_identities`.
        frame_rate: of the video; the published model was trained at 30.
        chunk_frames: new frames of a chunk, 5 seconds as upstream.
        overlap_frames: last poses of a chunk that the next one continues. With 0 each chunk begins from the
            reference's pose, as upstream: the head jumps there.
        turn_scale: factor of all turns, upstream's by default.
        window: frames over which the motion is smoothed.

    Returns:
        float64 [T, 6], see `POSE_SIZE`, T the video frames that the sound lasts.

    Raises:
        ValueError: an empty sound, an unknown manner, or chunks that are too long for the model.
    """
    manners = model.id_embed.num_embeddings
    if not 0 <= manner < manners:
        raise ValueError(f"manner={manner} must be between 0 and {manners - 1}")
    chunks = sound_chunks(
        len(waveform), frame_rate=frame_rate, chunk_frames=chunk_frames, overlap_frames=overlap_frames
    )
    who = torch.tensor([manner], device=waveform.device)
    waveform = standardise(waveform)
    poses = waveform.new_zeros(1, 0, POSE_SIZE)
    for chunk in chunks:
        found = model.generate(
            waveform[None, chunk.first_sample : chunk.end_sample],
            chunk.num_frames,
            who,
            first_poses=poses[:, chunk.first_frame :],
        )
        poses = torch.cat([poses, found[:, chunk.overlap :]], dim=1)
    motion = poses[0].double().cpu().numpy()
    motion[:, :3] *= turn_scale
    return smooth_poses(motion, window)


def _sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal positions [length, width], sines and cosines in turn (Vaswani et al. 2017)."""
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = torch.arange(length)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
