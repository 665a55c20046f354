"""The sound around each frame of a batch or of a whole chain, as the network hears it."""

import math
from collections.abc import Callable
from fractions import Fraction

import torch.nn.functional as F
from torch import Tensor

from portraitgen.media.audio import SAMPLE_RATE
from portraitgen.nn.speech import frame_windows
from portraitgen.nn.speech_encoders import SpeechEncoder
from portraitgen.training.learner import Batch


class Ears:
    """Hears windows of frames in sound or in stored features.

    Args:
        encoder: of sound; None: features come with the batches (the feature `speech`).
        window: frames of sound that a frame is drawn by, an odd number.
        margin: frames of sound that are heard before and after those that are drawn, so that the encoder
            knows what goes on; at least half the window.
        frame_rate: of the clips.

    Raises:
        ValueError: `margin` or `window` is out of range.
    """

    def __init__(self, encoder: SpeechEncoder | None, *, window: int, margin: int, frame_rate: float) -> None:
        if window % 2 == 0:
            raise ValueError(f"network.audio.window={window}: give an odd number of frames")
        if margin < window // 2:
            raise ValueError(
                f"sound_margin={margin}: windows of {window} frames need {window // 2} frames of sound or "
                "more before and after a clip"
            )
        self.encoder, self.half, self.margin, self.frame_rate = encoder, window // 2, margin, frame_rate
        self._rate = Fraction(frame_rate).limit_denominator(100_000)

    def samples(self, num_frames: int) -> int:
        """How many samples sound during so many frames."""
        return round(num_frames * SAMPLE_RATE / self._rate)

    def frames(self, num_samples: int) -> int:
        """How many frames a sound lasts, the last one perhaps in part."""
        return math.ceil(num_samples * self._rate / SAMPLE_RATE)

    def of_batch(self, batch: Batch, num_frames: int) -> Tensor:
        """What is heard at T = `num_frames` frames of a training batch: [B, T, window, layers, width].

        Raises:
            ValueError: the batch has no sound, or another margin or frame rate than was said.
        """
        whole = num_frames + 2 * self.margin
        if "speech" in batch:
            features: Tensor = batch["speech"]
            self._require(features.shape[1] == whole, features.shape[1], whole)
        elif self.encoder is None or "audio" not in batch:
            raise ValueError(
                "the batches hold no sound: set data.examples.audio=true and model.speech_encoder, or read"
                " the feature speech (data.examples.features=[speech])"
            )
        else:
            waveform = batch["audio"]
            found = waveform.shape[1] * self.frame_rate / SAMPLE_RATE
            self._require(abs(found - whole) < 0.5, round(found, 2), whole)
            features = self.encoder(waveform, whole)
        return self._around(features.float())

    def of_sound(self, waveform: Tensor) -> Callable[[range], Tensor]:
        """Hears stretches of a sound [B, N]; around it there is silence.

        Raises:
            ValueError: there is no encoder.
        """
        if self.encoder is None:
            raise ValueError("no speech encoder is set, which reads the sound: set model.speech_encoder")
        encoder, total = self.encoder, waveform.shape[1]

        def hear(frames: range) -> Tensor:
            begin = self.samples(frames.start - self.margin)
            end = begin + self.samples(len(frames) + 2 * self.margin)
            inside = waveform[:, max(begin, 0) : max(min(end, total), 0)]
            before = min(max(-begin, 0), end - begin)
            padded = F.pad(inside, (before, end - begin - before - inside.shape[1]))
            return self._around(encoder(padded, len(frames) + 2 * self.margin))

        return hear

    def _around(self, features: Tensor) -> Tensor:
        """Windows [B, T, window, …] of features [B, margin + T + margin, …]."""
        windows = frame_windows(features, before=self.half, after=self.half)
        return windows[:, self.margin : windows.shape[1] - self.margin]

    def _require(self, fits: bool, found: float, wanted: int) -> None:
        if not fits:
            raise ValueError(
                f"the batches hold {found} frames of sound at {self.frame_rate:g} frames a second, a clip "
                f"with its margins has {wanted}: set data.examples.sound_margin={self.margin} "
                "(model.sound_margin), and model.frame_rate to that of the clips"
            )
