"""One clip to generate: a reference, and the landmarks that it is to follow."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from torch import Tensor

SOUND_RATE = 48_000
"""Samples a second of the sound of generated videos."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrivenClip:
    """One clip to generate.

    Attributes:
        key: names the results.
        reference: float [3, H, W] in [-1, 1].
        landmarks: float32 [T, K, 2], pixels of the reference's size; NaN where no face drives.
        scheme: order and meaning of the landmarks.
        fps: of the driving frames.
        frames: int64 [T], their numbers in the driving video.
        truth: float [T, 3, H, W] in [-1, 1], the frames as they were; None when another face drives.
        source: where it comes from, for samples.jsonl.
        sound: float32 [N] mono at `SOUND_RATE`, from the first frame on; None: silent.
        still: one frame that is to be a picture, not a video.
    """

    key: str
    reference: Tensor
    landmarks: np.ndarray
    scheme: str
    fps: Fraction
    frames: np.ndarray
    truth: Tensor | None
    source: dict[str, Any]
    sound: np.ndarray | None = None
    still: bool = False
