"""One clip to generate: a reference, and the landmarks that it is to follow, drawn when asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from portraitgen.diffusion.frame_conditions import FramesOnDemand
from portraitgen.faces.drawing import draw_landmarks
from portraitgen.nn.pose_guider import DRAWING_FACTOR
from portraitgen.training.request import Request, StoredClip


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

    @classmethod
    def of_stored(cls, clip: StoredClip, *, reference: int | None = None) -> "DrivenClip":
        """A prepared clip as it moved; a photo moves as one frame does."""
        request = clip.request(reference=reference)
        assert request.landmarks is not None
        return cls(
            key=request.key,
            reference=request.batch["reference"][0],
            landmarks=request.landmarks,
            scheme=clip.landmark_scheme,
            fps=request.fps or Fraction(0),
            frames=request.numbers,
            truth=request.truth,
            source=dict(request.source),
            sound=request.sound,
            still=request.fps is None,
        )

    def request(self, factor: int, *, references: tuple[tuple[Path, ...], ...] = ()) -> Request:
        """As the system takes it.

        Args:
            factor: pixels of a latent's side.
        """
        height, width = self.reference.shape[-2:]
        canvas = (DRAWING_FACTOR * height // factor, DRAWING_FACTOR * width // factor)

        def drawings(frames: Sequence[int]) -> Tensor:
            drawn = draw_landmarks(
                self.landmarks[list(frames)],
                image_size=(height, width),
                canvas_size=canvas,
                scheme=self.scheme,
            )
            return (torch.from_numpy(drawn) / 127.5 - 1)[None]

        return Request(
            key=self.key,
            batch={
                "key": [self.key],
                "reference": self.reference[None],
                "pose": FramesOnDemand(len(self.landmarks), drawings),
            },
            length=None if self.still else len(self.landmarks),
            fps=None if self.still else self.fps,
            sound=self.sound,
            frames=None if self.still else self.frames,
            truth=self.truth,
            landmarks=self.landmarks,
            scheme=self.scheme,
            references=references,
            source=self.source,
        )
