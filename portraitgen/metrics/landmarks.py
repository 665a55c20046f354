"""Does the generated face do what it was told: its landmarks, found again, against the driving ones."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.measure import landmark_error
from portraitgen.faces.types import Face
from portraitgen.metrics.rgb import Clip, as_uint8
from portraitgen.metrics.scores import Grades


def find_faces(
    chunks: Iterable[Clip], backend: FaceBackend, *, embed: bool = False
) -> list[tuple[Face, ...]]:
    """The faces of every frame that have at least the backend's minimum score, surest first.

    The backend enlarges small frames by itself and gives its points in the pixels of the frame. A frame that
    comes again, as in a control that copies, is searched once.

    Args:
        chunks: frames [N, 3, H, W] uint8, or float in [-1, 1], in their order.
        embed: also compute the backend's own identity embedding of each face.
    """
    searched: dict[bytes, tuple[Face, ...]] = {}
    found = []
    for chunk in chunks:
        frames = as_uint8(chunk, name="frames to find faces in")
        for image in frames.permute(0, 2, 3, 1).cpu().contiguous().numpy():
            key = hashlib.sha256(image.tobytes()).digest()
            if key not in searched:
                faces = backend.detect(image, embed=embed)
                searched[key] = tuple(face for face in faces if face.score >= backend.min_score)
            found.append(searched[key])
    return found


def landmarks_of(faces: Sequence[Face | None], *, num_landmarks: int) -> np.ndarray:
    """Landmarks of the face of every frame, float32 [T, K, 2] in pixels, NaN without one."""
    missing = np.full((num_landmarks, 2), np.nan, dtype=np.float32)
    return np.stack([missing if face is None else face.landmarks for face in faces])


def score_landmarks(found: np.ndarray, driving: np.ndarray) -> Grades:
    """Compare found landmarks with the driving ones; a frame without a face is missing and counted, never 0.

    Args:
        found: [T, K, 2] from `landmarks_of`.
        driving: [T, K, 2] in the same pixels and the same order; NaN where the driving video has no face.

    Returns:
        Scores and reasons. `landmark_error` float64 [T]: mean distance over the points
        divided by the inter-ocular distance, NaN without a face or without driving landmarks.
        `detection_rate` float64 [T]: 1 with a face, 0 without, NaN where nothing drives a face.

    Raises:
        ValueError: the shapes differ.
    """
    if found.shape != driving.shape:
        raise ValueError(
            f"found landmarks {list(found.shape)} and driving landmarks {list(driving.shape)} differ in "
            "shape; use one face backend for both, and one driving frame for each generated frame"
        )
    driven = np.isfinite(driving).all(axis=(1, 2))
    has_face = np.isfinite(found).all(axis=(1, 2))
    error = landmark_error(found, driving).astype(np.float64)

    reasons = {}
    if not driven.all():
        undriven = f"no driving landmarks in {(~driven).sum()} of {len(driven)} frames"
        reasons = {"landmark_error": undriven, "detection_rate": undriven}
    if not has_face[driven].all():
        faceless = f"no face found in {(driven & ~has_face).sum()} of {driven.sum()} frames"
        reasons["landmark_error"] = "; ".join([*reasons.values()][:1] + [faceless])
    rate = np.where(driven, has_face.astype(np.float64), np.nan)
    return Grades({"landmark_error": error, "detection_rate": rate}, reasons)
