"""Frames to be graded, with the faces in them: looked for once, however many graders ask."""

from functools import cached_property

import numpy as np
from torch import Tensor

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.types import Face
from portraitgen.metrics.frames import Frames, as_frames
from portraitgen.metrics.landmarks import find_faces, landmarks_of
from portraitgen.metrics.person import follow_person
from portraitgen.metrics.rgb import Clip


class Pictures:
    """Frames of one clip, or one picture.

    Args:
        frames: [T, 3, H, W] or one picture [3, H, W], uint8 or float in [-1, 1]; or frames that are read.
        backend: finds the faces.
        name: what they are, for the message of an error ("clip 7: true frames").
        driving: [T, K, 2] landmarks, in their pixels, of the face that they should show, NaN without one.
            Where several people are in the frames, `landmarks` are those of the person nearest to it.

    Raises:
        ValueError: not RGB frames, or values that are not finite.
    """

    def __init__(
        self, frames: Clip | Frames, backend: FaceBackend, *, name: str, driving: np.ndarray | None = None
    ) -> None:
        self.frames = as_frames(frames, name=name)
        self.backend = backend
        self.name = name
        self.driving = driving

    def __len__(self) -> int:
        """Number of frames."""
        return self.frames.shape[0]

    @property
    def first(self) -> Tensor:
        """The first frame, or the picture: uint8 [1, 3, H, W]."""
        return next(iter(self.frames.chunks()))[:1]

    @cached_property
    def faces(self) -> tuple[tuple[Face, ...], ...]:
        """The faces of each frame that have at least the backend's minimum score, surest first."""
        return tuple(find_faces(self.frames.chunks(), self.backend))

    @cached_property
    def landmarks(self) -> np.ndarray:
        """Landmarks of one person (`follow_person`), float32 [T, K, 2] in pixels; NaN where they are not."""
        person = follow_person(self.faces, min_score=self.backend.min_score, driving=self.driving)
        return landmarks_of(person, num_landmarks=self.backend.num_landmarks)
