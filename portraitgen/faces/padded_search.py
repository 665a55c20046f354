"""The face that a picture is of, also where it fills the picture so that detectors miss it."""

from dataclasses import replace

import numpy as np

from portraitgen.faces.backend import FaceBackend, largest_face
from portraitgen.faces.types import Face

_PADDING, _GREY = 0.25, 128


def find_face(picture: np.ndarray, backend: FaceBackend) -> Face | None:
    """The largest face of a picture uint8 [H, W, 3]; None without any of the backend's `min_score`.

    A face that fills the picture is often found only with a border around it, which is tried next.
    """
    face = _largest(picture, backend)
    if face is not None:
        return face
    across, down = round(picture.shape[1] * _PADDING), round(picture.shape[0] * _PADDING)
    padded = np.pad(picture, ((down, down), (across, across), (0, 0)), constant_values=_GREY)
    face = _largest(padded, backend)
    if face is None:
        return None
    shift = np.array([across, down], np.float32)
    return replace(
        face,
        box=face.box - np.tile(shift, 2),
        landmarks=face.landmarks - shift,
        keypoints=face.keypoints - shift,
    )


def _largest(picture: np.ndarray, backend: FaceBackend) -> Face | None:
    return largest_face([face for face in backend.detect(picture) if face.score >= backend.min_score])
