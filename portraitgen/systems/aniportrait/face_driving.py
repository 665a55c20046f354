"""A photo's face, to move as the face of a video, of a picture or of a landmark file does."""

import logging
from pathlib import Path
from typing import Literal

import numpy as np

from portraitgen.faces.landmark_sequence import LandmarkSequence
from portraitgen.faces.motion import PICTURE, Motion, file_kind
from portraitgen.faces.reference import Reference
from portraitgen.faces.transfer import Transfer, transfer_motion
from portraitgen.systems.aniportrait.driven_clip import DrivenClip

log = logging.getLogger(__name__)

Retarget = Transfer | Literal["none"]


def driven_by_face(
    reference: Reference, driving: Path, motion: Motion, *, retarget: Retarget, raw: bool
) -> DrivenClip:
    """The clip in which the photo `reference` moves as `motion`, read from the file `driving`.

    Args:
        retarget: how (see `transfer_motion`), or "none": the landmarks are of the photo itself.
        raw: draw MediaPipe's own points.

    Raises:
        ValueError: landmarks of another kind than the photo's, or, as they are, of a picture of another
            proportion.
    """
    if retarget == "none":
        landmarks = _as_they_are(reference, motion.landmarks, raw=raw)
    else:
        landmarks = transfer_motion(motion.landmarks, reference.landmarks, how=retarget, raw=raw)
    _warn_of_leaving(reference, driving, landmarks)
    return DrivenClip(
        key=f"{reference.path.stem}-{driving.stem}",
        reference=reference.picture,
        landmarks=landmarks,
        scheme=motion.landmarks.scheme,
        fps=motion.landmarks.fps,
        frames=np.arange(len(landmarks)),
        truth=None,
        source={
            "mode": file_kind(driving),
            "driving": str(driving),
            "frames_filled_in": int((~motion.landmarks.found).sum()),
        },
        sound=motion.sound,
        still=file_kind(driving) == PICTURE,
    )


def _warn_of_leaving(reference: Reference, driving: Path, landmarks: np.ndarray) -> None:
    """Say so where landmarks, [T, K, 2], lie outside the picture: what is there is not drawn."""
    height, width = reference.framing.size
    outside: np.ndarray = np.any((landmarks < 0) | (landmarks > (width, height)), axis=(1, 2))
    if outside.any():
        log.warning(
            "%s: in %d of %d frames the face of %s would reach out of the picture; give a photo with more "
            "space around the face, or show more of it (inputs.frame=crop)",
            driving,
            int(outside.sum()),
            len(outside),
            reference.path.name,
        )


def _as_they_are(reference: Reference, landmarks: LandmarkSequence, *, raw: bool) -> np.ndarray:
    """Landmarks of the photo, float32 [T, K, 2] in pixels of what is shown of it."""
    (height, width), (rows, columns) = landmarks.image_size, reference.photo_size
    if abs(height * columns - width * rows) > max(height, width, rows, columns):
        raise ValueError(
            f"retarget=none: the landmarks are of a picture of {width}x{height}, the reference is "
            f"{columns}x{rows}: they must have one proportion"
        )
    in_photo = landmarks.positions(raw=raw) * np.array([columns / width, rows / height])
    return reference.framing.to_frame(in_photo)
