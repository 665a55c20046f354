"""How a face moves in a file: that of a video or picture, or of a landmark file, and the sound with it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.choice import LARGEST
from portraitgen.faces.follow import face_in_photo, follow_face
from portraitgen.faces.landmark_file import load_landmarks
from portraitgen.faces.landmark_sequence import LandmarkSequence, resample, sequence_of_faces
from portraitgen.faces.mediapipe import MediaPipeBackend
from portraitgen.faces.types import Face
from portraitgen.media.photo import is_photo, read_photo
from portraitgen.media.sound import sound_of

PICTURE = "picture"

_PHOTO_RATE = Fraction(25)
"""A photo is a sequence of one frame; its rate is never seen."""


@dataclass(frozen=True, slots=True)
class Motion:
    """How a face moves.

    Attributes:
        landmarks: of the face.
        sound: float32 [1, N] mono or [2, N] stereo at `media.sound.SOUND_RATE`, from the first frame on;
            None without any.
    """

    landmarks: LandmarkSequence
    sound: np.ndarray | None


def with_mesh(backend: FaceBackend) -> FaceBackend:
    """The backend, asked for all that it knows of a face: MediaPipe for depth, blendshapes and head pose."""
    return dataclasses.replace(backend, mesh=True) if isinstance(backend, MediaPipeBackend) else backend


def file_kind(path: Path) -> str:
    """What a file that drives is, by its name: `PICTURE`, "landmarks" (`.npz`) or, all others, "video"."""
    if is_photo(path):
        return PICTURE
    return "landmarks" if path.suffix == ".npz" else "video"


def read_motion(
    path: Path,
    backend: FaceBackend,
    *,
    fps: Fraction | None,
    which: str = LARGEST,
    on_frame: Callable[[int, int], None] | None = None,
) -> Motion:
    """What the file `path` makes a face do, at `fps` (None: its own rate).

    Args:
        which: of several faces, see `choice`.
        on_frame: called after each frame of a video with how many are read and how many there should be.

    Raises:
        ValueError: the file cannot be read, or shows no face.
    """
    kind = file_kind(path)
    if kind == "landmarks":
        landmarks = load_landmarks(path)
        return Motion(resample(landmarks, fps or landmarks.fps), None)
    if kind == PICTURE:
        return Motion(landmarks_of_photo(path, read_photo(path), backend, which=which)[0], None)
    followed = follow_face(path, backend, fps=fps, which=which, on_frame=on_frame)
    landmarks = followed.landmarks
    return Motion(landmarks, sound_of(path, followed.start_s, len(landmarks) / landmarks.fps))


def landmarks_of_photo(
    path: Path, image: np.ndarray, backend: FaceBackend, *, which: str = LARGEST
) -> tuple[LandmarkSequence, Face]:
    """The face of a picture that is meant (see `choice`) as a sequence of one frame, and as it was found.

    Raises:
        ValueError: there is no face.
    """
    face = face_in_photo(image, backend, which=which, name=str(path))
    if face is None:
        raise ValueError(f"{path}: no face found in this picture, also at twice the size ({backend.name})")
    sequence = sequence_of_faces(
        [face],
        np.zeros(1),
        period=float(1 / _PHOTO_RATE),
        fps=_PHOTO_RATE,
        scheme=backend.landmark_scheme,
        image_size=image.shape[:2],
    )
    return sequence, face
