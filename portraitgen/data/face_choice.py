"""Which of the faces that features were computed of goes with a window of a clip."""

from dataclasses import dataclass

import numpy as np

from portraitgen.data.sample import DataError


@dataclass(frozen=True, slots=True)
class FaceChoice:
    """A face of the window's person: from the window itself, or from elsewhere in the clip.

    A face from elsewhere shows another pose and expression, so that a network cannot copy it (ConsisID's
    cross-face training; its paper draws it for half of the samples, its code for all or none).

    Attributes:
        cross: probability of a face from outside the window. Where there is none on the wanted side, the
            nearest on the other is taken.
    """

    cross: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.cross <= 1:
            raise DataError(f"data.examples.cross_face={self.cross}: give a probability from 0 to 1")

    def choose(self, faces: np.ndarray, track: int, frames: np.ndarray, rng: np.random.Generator) -> int:
        """Which row of `faces` it is; two draws are taken from `rng`.

        Args:
            faces: int64 [F, 2], person and frame.
            track: the window's person.
            frames: of the window, int64 [T].

        Raises:
            DataError: there is no face of this person.
        """
        crossed, draw = rng.random() < self.cross, rng.random()
        own = np.flatnonzero(faces[:, 0] == track)
        if not len(own):
            raise DataError(f"has no face of person {track + 1} that features were computed of")
        first, last = int(frames.min()), int(frames.max())
        away = np.maximum(np.maximum(first - faces[own, 1], faces[own, 1] - last), 0)
        wanted = own[(away > 0) == crossed]
        if not len(wanted):
            wanted = own[away == away.min()]
        return int(wanted[int(draw * len(wanted))])
