"""What hears a sound, frozen: one or several feature vectors a video frame, of whatever is at hand.

wav2vec 2.0 is what the papers use; a small recurrent voice encoder and plain mel energies stand in for it
where no such model is, in tests and on small machines.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from pickle import UnpicklingError
from typing import Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Wav2Vec2Model
from transformers.audio_utils import mel_filter_bank

from portraitgen.nn.pretrained import model_folder
from portraitgen.nn.speech import encode_speech_layers, standardise

SAMPLE_RATE = 16_000
_WINDOW, _HOP = 400, 160


class SpeechEncoder(nn.Module, ABC):
    """Sound [B, N] at 16 kHz → features [B, T, layers, width]; frozen, and in eval mode whatever comes.

    Attributes:
        layers, width: shape of a frame's features.
    """

    layers: int
    width: int

    @abstractmethod
    def forward(self, waveform: Tensor, num_frames: int) -> Tensor:
        """Features of the T = `num_frames` frames during which `waveform` [B, N] in [-1, 1] sounds."""

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode."""
        return super().train(False)


class Wav2VecLayers(SpeechEncoder):
    """The hidden states behind all layers of a wav2vec 2.0 (EMO, Tian et al. 2024; Hallo; Loopy)."""

    def __init__(self, model: Wav2Vec2Model) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.layers: int = model.config.num_hidden_layers
        self.width: int = model.config.hidden_size

    @classmethod
    def from_pretrained(cls, path: str) -> "Wav2VecLayers":
        """Load a folder or hub id of transformers, such as facebook/wav2vec2-base-960h (Apache-2.0).

        Raises:
            ValueError: there is no such model.
        """
        folder = model_folder(path, section="speech_encoder.path")
        try:
            return cls(Wav2Vec2Model.from_pretrained(str(folder), dtype=torch.float32))
        except (OSError, ValueError) as error:
            raise ValueError(f"speech_encoder.path={path}: no wav2vec 2.0 there ({error})") from error

    @torch.no_grad()
    def forward(self, waveform: Tensor, num_frames: int) -> Tensor:
        return encode_speech_layers(self.model, standardise(waveform), num_frames)


class MelEnergies(SpeechEncoder):
    """Logarithms of mel energies, meaned over a frame's time: one layer. It needs no weights.

    Args:
        num_mels: bands from 0 to 8 kHz.
        floor: energy below which all is silence; features are about 0 there and 1 to 2 in speech.
    """

    bank: Tensor
    window: Tensor

    def __init__(self, num_mels: int = 40, *, floor: float = 1e-4) -> None:
        super().__init__()
        self.layers, self.width, self.floor = 1, num_mels, floor
        bank = mel_filter_bank(
            num_frequency_bins=1 + _WINDOW // 2,
            num_mel_filters=num_mels,
            min_frequency=0.0,
            max_frequency=SAMPLE_RATE / 2,
            sampling_rate=SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("bank", torch.from_numpy(bank).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)

    def powers(self, waveform: Tensor) -> Tensor:
        """Mel powers [B, n, num_mels], 100 a second: around the samples 0, 160, 320 ….

        Of a sound of less than 25 ms as if silence followed.
        """
        spectrum = torch.stft(
            F.pad(waveform.float(), (0, max(_WINDOW - waveform.shape[-1], 0))),
            _WINDOW,
            _HOP,
            window=self.window,
            pad_mode="constant",
            return_complex=True,
        )
        # The last is around a sample that is no more there: without it a frame has the same in any sound.
        return spectrum[..., :-1].abs().square().transpose(1, 2) @ self.bank

    @torch.no_grad()
    def forward(self, waveform: Tensor, num_frames: int) -> Tensor:
        levels = torch.log10(1 + self.powers(waveform) / self.floor) / 2
        return _at_frames(levels, num_frames)[:, :, None]


class VoiceEncoder(SpeechEncoder):
    """Resemblyzer's speaker encoder (Wan et al. 2018; Apache-2.0), its LSTM's states at every frame: one
    layer of 256 numbers from 40 mel powers, 5.7 MB.
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.mel = MelEnergies(lstm.input_size)
        self.lstm = lstm.requires_grad_(False).eval()
        self.layers, self.width = 1, lstm.hidden_size

    @classmethod
    def from_pretrained(cls, path: str) -> "VoiceEncoder":
        """Load the package's `pretrained.pt`, or a .safetensors file with the names of its tensors.

        Raises:
            ValueError: there is no such file, or other tensors are in it.
        """
        file = Path(path).expanduser()
        if not file.is_file():
            raise ValueError(f"speech_encoder.path={path}: no such file")
        lstm = nn.LSTM(40, 256, 3, batch_first=True)
        try:
            if file.suffix == ".safetensors":
                tensors = load_file(file)
            else:
                tensors = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
            lstm.load_state_dict(
                {name.removeprefix("lstm."): t for name, t in tensors.items() if name.startswith("lstm.")}
            )
        except (RuntimeError, KeyError, TypeError, SafetensorError, UnpicklingError) as error:
            raise ValueError(f"speech_encoder.path={path}: not Resemblyzer's voice encoder") from error
        return cls(lstm)

    @torch.no_grad()
    def forward(self, waveform: Tensor, num_frames: int) -> Tensor:
        # As loud as the package makes what it hears, but never quieter than it is.
        loudness = waveform.square().mean(dim=-1, keepdim=True).clamp(min=1e-10)
        gain = (10 ** (-30 / 10) / loudness).sqrt().clamp(min=1)
        states, _ = self.lstm(self.mel.powers(waveform * gain))
        return _at_frames(states, num_frames)[:, :, None]


def _at_frames(features: Tensor, num_frames: int) -> Tensor:
    """[B, n, D] at 100 a second → [B, T, D], each the mean of what is heard during a frame."""
    return F.adaptive_avg_pool1d(features.transpose(1, 2), num_frames).transpose(1, 2)
