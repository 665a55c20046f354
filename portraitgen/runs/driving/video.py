"""A photo's face, to move as the face in a video."""

import logging
from pathlib import Path

import cv2
import numpy as np
import torch

from portraitgen.data.prepare.crop import choose_crop
from portraitgen.faces.backend import FaceBackend, largest_face
from portraitgen.faces.types import Face
from portraitgen.media.decode import iter_frames, probe_video
from portraitgen.media.geometry import apply_affine, similarity_transform
from portraitgen.runs.driving.clip import DrivenClip

log = logging.getLogger(__name__)

MARGIN = 0.4
"""Space around a face in a photo or video, in face sizes: that of conf/prepare.yaml."""


def driven_by_video(reference: Path, driving: Path, *, backend: FaceBackend, size: int) -> DrivenClip:
    """A photo's face, to move as the largest face of each frame of a video does.

    Both are cut out as prepared clips are. The driving landmarks are laid over the reference's by the
    similarity that fits the first of them: place and size of the head are the photo's, turns and expression
    the video's.

    Args:
        size: side of the picture that the model draws.

    Raises:
        ValueError: a file cannot be read or shows no face.
    """
    photo = _read_photo(reference)
    face = _surest(backend, photo)
    if face is None:
        raise ValueError(f"reference={reference}: no face found in this photo")
    crop = choose_crop(face.box[None], image_size=photo.shape[:2], size=size, margin=MARGIN)
    picture = torch.from_numpy(crop.cut(photo)).movedim(-1, 0) / 127.5 - 1

    missing = np.full((backend.num_landmarks, 2), np.nan, np.float32)
    # What the decoder made up in a damaged frame is no face to follow.
    found = [None if frame.corrupt else _surest(backend, frame.image) for frame in iter_frames(driving)]
    landmarks = np.stack([missing if each is None else each.landmarks for each in found])
    seen = np.flatnonzero(np.isfinite(landmarks).all(axis=(1, 2)))
    if not len(seen):
        raise ValueError(f"driving={driving}: no face found in any of its {len(landmarks)} frames")
    if len(seen) < len(landmarks):
        without = len(landmarks) - len(seen)
        log.warning(
            "driving=%s: %d of %d frames show no face and drive nothing", driving, without, len(found)
        )
    to_reference = similarity_transform(landmarks[seen[0]], crop.to_crop(face.landmarks))
    return DrivenClip(
        key=f"{reference.stem}-{driving.stem}",
        reference=picture,
        landmarks=apply_affine(landmarks, to_reference).astype(np.float32),
        scheme=backend.landmark_scheme,
        fps=probe_video(driving).fps,
        frames=np.arange(len(landmarks)),
        truth=None,
        source={"reference": str(reference), "driving": str(driving)},
    )


def _surest(backend: FaceBackend, image: np.ndarray) -> Face | None:
    return largest_face([face for face in backend.detect(image) if face.score >= backend.min_score])


def _read_photo(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"reference={path}: no such picture, or it cannot be read")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
