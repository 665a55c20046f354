"""The faces of a picture, also of one that a face fills so that detectors miss it."""

from dataclasses import replace

import cv2
import numpy as np

from portraitgen.faces.backend import FaceBackend, largest_face
from portraitgen.faces.types import Face

_GREY = (128, 128, 128)


def sure_faces(picture: np.ndarray, backend: FaceBackend, *, embed: bool = False) -> list[Face]:
    """The faces of a picture uint8 [H, W, 3] that have the backend's `min_score`, as it orders them.

    Where there is none, once more with a grey border, a quarter of each side: a face that fills the picture
    is often found only so. Such faces have no mesh.

    Args:
        embed: with their identity.
    """
    found = _sure(picture, backend, embed=embed)
    if found:
        return found
    down, across = picture.shape[0] // 4, picture.shape[1] // 4
    bordered = cv2.copyMakeBorder(picture, down, down, across, across, cv2.BORDER_CONSTANT, value=_GREY)
    shift = np.array([across, down], np.float32)
    return [
        replace(
            face,
            box=face.box - np.tile(shift, 2),
            keypoints=face.keypoints - shift,
            landmarks=face.landmarks - shift,
            mesh=None,
        )
        for face in _sure(bordered, backend, embed=embed)
    ]


def find_face(picture: np.ndarray, backend: FaceBackend) -> Face | None:
    """The largest of `sure_faces`; None when there is none."""
    return largest_face(sure_faces(picture, backend))


def _sure(picture: np.ndarray, backend: FaceBackend, *, embed: bool) -> list[Face]:
    return [face for face in backend.detect(picture, embed=embed) if face.score >= backend.min_score]
