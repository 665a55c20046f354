"""Speech features at the frame rate of a video: wav2vec 2.0, resampled before its transformer."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2Model

from portraitgen.nn.options import reject_unknown


def build_speech_encoder(options: Mapping[str, Any]) -> Wav2Vec2Model:
    """A wav2vec 2.0 with random weights (Baevski et al. 2020), its convolutions frozen as is usual.

    Args:
        options: of transformers' ``Wav2Vec2Config``; none of them gives wav2vec2-base.

    Raises:
        ValueError: unknown option (named).
    """
    reject_unknown("audio_encoder", options, Wav2Vec2Config().to_dict())
    model = Wav2Vec2Model(Wav2Vec2Config(**options))
    model.freeze_feature_encoder()
    # The stand-in for masked features: `encode_speech` masks none.
    if hasattr(model, "masked_spec_embed"):
        model.masked_spec_embed.requires_grad_(False)
    return model


def standardise(waveform: Tensor) -> Tensor:
    """Samples [..., N] with mean 0 and variance 1, as wav2vec 2.0 was trained on whole utterances."""
    centred = waveform - waveform.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-7).sqrt()


def encode_speech(model: Wav2Vec2Model, waveform: Tensor, num_frames: int) -> Tensor:
    """One feature vector a video frame.

    The convolutions' 50 features a second are resampled to the frames before the transformer, as in
    FaceFormer (Fan et al., CVPR 2022) and AniPortrait.

    Args:
        waveform: float [B, N], standardised, 16 kHz. Less than the convolutions see at once is
            padded with silence.
        num_frames: T, the frames that the samples sound during.

    Returns:
        float [B, T, D].
    """
    needed = 1
    for kernel, stride in zip(
        reversed(model.config.conv_kernel), reversed(model.config.conv_stride), strict=True
    ):
        needed = (needed - 1) * stride + kernel
    features = model.feature_extractor(F.pad(waveform, (0, max(needed - waveform.shape[-1], 0))))
    features = F.interpolate(features, size=num_frames, mode="linear", align_corners=True)
    hidden, _ = model.feature_projection(features.transpose(1, 2))
    return model.encoder(hidden).last_hidden_state


def encode_speech_layers(model: Wav2Vec2Model, waveform: Tensor, num_frames: int) -> Tensor:
    """What `encode_speech` gives after each of the transformer's L layers: float [B, T, L, D].

    As EMO (Tian et al. 2024), Hallo and Loopy take it: early layers hear the sound, late ones the words.
    """
    states: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, output: states.append(output))
        for layer in model.encoder.layers
    ]
    try:
        encode_speech(model, waveform, num_frames)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(states, dim=2)


def frame_windows(features: Tensor, *, before: int = 2, after: int = 2) -> Tensor:
    """What is heard around each frame: [B, T, …] → [B, T, before + 1 + after, …], as Hallo and Loopy take it.

    At the ends the first and the last frame stand in for those that there are not.
    """
    num_frames = features.shape[1]
    offsets = torch.arange(-before, after + 1, device=features.device)
    frames = torch.arange(num_frames, device=features.device)[:, None] + offsets
    return features[:, frames.clamp(0, num_frames - 1)]
