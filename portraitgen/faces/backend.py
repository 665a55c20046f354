"""The protocol that every face analyser follows, and what can be said of faces whichever found them."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from portraitgen.faces.types import Face


class FaceBackend(Protocol):
    """Finds faces in a picture. Implementations load their models at first use, so that they can be pickled.

    Attributes:
        name: of the backend, recorded in shards and reports.
        landmark_scheme: order and meaning of the landmarks, "ibug68" for instance.
        num_landmarks: K.
        embedding_dim: D of the identity embedding.
        min_score: a face in a photo, or a new track, needs this score.
        weak_score: detections are returned down to this score; a track may continue on them.
        identity_threshold: two embeddings with at least this cosine are of one person.
    """

    @property
    def name(self) -> str: ...
    @property
    def landmark_scheme(self) -> str: ...
    @property
    def num_landmarks(self) -> int: ...
    @property
    def embedding_dim(self) -> int: ...
    @property
    def min_score(self) -> float: ...
    @property
    def weak_score(self) -> float: ...
    @property
    def identity_threshold(self) -> float: ...

    def detect(self, image: np.ndarray, *, embed: bool = False) -> list[Face]:
        """Faces in a picture, surest first, weak ones included.

        Args:
            image: uint8 [H, W, 3] RGB.
            embed: also compute the identity embedding of each face.
        """
        ...


def largest_face(faces: Sequence[Face]) -> Face | None:
    """The face with the largest box, the subject of a photo by convention; None when there is none."""
    return max(
        faces,
        key=lambda face: float(np.prod(face.box[2:] - face.box[:2])),
        default=None,
    )


def keypoints_from_ibug68(landmarks: np.ndarray) -> np.ndarray:
    """ArcFace's five points [..., 5, 2] (eyes, nose tip, mouth corners) from 68 iBUG points [..., 68, 2]."""
    return np.stack(
        [
            landmarks[..., 36:42, :].mean(axis=-2),
            landmarks[..., 42:48, :].mean(axis=-2),
            landmarks[..., 30, :],
            landmarks[..., 48, :],
            landmarks[..., 54, :],
        ],
        axis=-2,
    ).astype(np.float32)
