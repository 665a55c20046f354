"""Frames to be graded, with the faces in them: looked for once, however many graders ask."""

from functools import cached_property

import numpy as np
from torch import Tensor

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.types import Face
from portraitgen.metrics.landmarks import find_faces, landmarks_of
from portraitgen.metrics.rgb import Clip, as_uint8


class Pictures:
    """Frames of one clip, or one picture.

    Args:
        frames: [T, 3, H, W] or one picture [3, H, W], uint8 or float in [-1, 1].
        backend: finds the faces.
        name: what they are, for the message of an error ("clip 7: true frames").

    Raises:
        ValueError: not RGB frames, or values that are not finite.
    """

    def __init__(self, frames: Clip, backend: FaceBackend, *, name: str) -> None:
        shown = as_uint8(frames, name=name)
        self.frames: Tensor = shown if shown.ndim == 4 else shown[None]
        """uint8 [T, 3, H, W]."""
        self.backend = backend
        self.name = name

    @cached_property
    def faces(self) -> tuple[tuple[Face, ...], ...]:
        """The faces of each frame that have at least the backend's minimum score, surest first."""
        return tuple(find_faces(self.frames, self.backend))

    @cached_property
    def landmarks(self) -> np.ndarray:
        """Landmarks of the surest face of each frame, float32 [T, K, 2] in pixels; NaN without a face."""
        return landmarks_of(self.faces, num_landmarks=self.backend.num_landmarks)
