"""Real clips made worse in one known way each: what a figure should notice, and what it should not."""

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch import Tensor

from portraitgen.metrics.grading import Material

ITSELF, BLURRED, SOUND_SHIFTED, SHUFFLED, SWAPPED = (
    "itself",
    "blurred",
    "sound shifted",
    "frames shuffled",
    "another person",
)
BLUR = 1 / 64
"""Standard deviation of the Gaussian, as a share of the frame's height."""
SHIFT_S = 0.4


def degrade(
    video: str, frames: Tensor, audio: np.ndarray | None, other: Tensor, *, fps: float
) -> Mapping[str, Material]:
    """A real clip graded against itself, unchanged and made worse.

    Args:
        video: key of the clip.
        frames: uint8 [T, 3, H, W].
        audio: float32 [N] mono at 16 kHz, or None.
        other: uint8 [T, 3, H, W] of another person.
        fps: frames a second.
    """
    order = np.random.default_rng(0).permutation(len(frames))
    shifted = None if audio is None else np.roll(audio, round(SHIFT_S * 16000))
    versions = {
        ITSELF: (frames, audio),
        BLURRED: (blur(frames), audio),
        SOUND_SHIFTED: (frames, shifted),
        SHUFFLED: (frames[torch.from_numpy(order)], audio),
        SWAPPED: (other, audio),
    }
    return {
        name: Material(
            video=video,
            generated=generated,
            fps=fps,
            truth=frames,
            reference=frames[0],
            audio=sound,
            true_audio=audio,
        )
        for name, (generated, sound) in versions.items()
    }


def blur(frames: Tensor) -> Tensor:
    """Frames uint8 [T, 3, H, W] through a Gaussian of `BLUR` times their height."""
    sigma = BLUR * frames.shape[-2]
    blurred = [cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames.movedim(1, -1).numpy()]
    return torch.from_numpy(np.stack(blurred)).movedim(-1, 1)
