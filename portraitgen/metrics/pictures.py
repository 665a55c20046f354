"""Frames to be graded, with the faces in them: looked for once, however many graders ask."""

from functools import cached_property

import numpy as np
from torch import Tensor

from portraitgen.faces.backend import FaceBackend, largest_face
from portraitgen.faces.recognition.recognizer import FaceRecognizer
from portraitgen.faces.types import Face
from portraitgen.metrics.frames import Frames, as_frames
from portraitgen.metrics.identity import embed_faces
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
        self._identities: dict[tuple[str, str | None, bool], dict[int, np.ndarray]] = {}

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

    def embed(
        self, recognizer: FaceRecognizer, frames: Tensor, places: np.ndarray, *, largest: bool
    ) -> list[np.ndarray]:
        """Identities of the faces in some frames, or of the largest in each: float32 [M, D] of unit length.

        A network looks at a frame once, however often it comes and however many graders ask.

        Args:
            frames: uint8 [N, 3, H, W].
            places: int64 [N], theirs in the clip.
        """
        known = self._identities.setdefault((recognizer.name, recognizer.digest, largest), {})
        # A frame that comes again has the very faces that were found the first time (`find_faces`).
        found = [self.faces[place] for place in places]
        new = {id(faces): number for number, faces in enumerate(found) if id(faces) not in known}
        if new:
            counted = [found[number] for number in new.values()]
            if largest:
                counted = [() if face is None else (face,) for face in map(largest_face, counted)]
            embedded = embed_faces(recognizer, frames[[*new.values()]], counted)
            known |= dict(zip(new, embedded, strict=True))
        return [known[id(faces)] for faces in found]
