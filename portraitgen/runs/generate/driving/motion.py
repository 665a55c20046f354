"""Read what drives a clip: the face of a video or picture, or a landmark file, and the sound with it."""

import dataclasses
import logging
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.follow import face_in_photo, follow_face
from portraitgen.faces.landmark_file import load_landmarks
from portraitgen.faces.landmark_sequence import LandmarkSequence, resample, sequence_of_faces
from portraitgen.faces.mediapipe import MediaPipeBackend
from portraitgen.faces.types import Face
from portraitgen.media.audio import read_audio
from portraitgen.media.decode import VideoError, VideoSource
from portraitgen.runs.generate.driving.clip import SOUND_RATE
from portraitgen.runs.progress import progress

log = logging.getLogger(__name__)

PICTURE = "picture"
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Files with one of these endings are pictures, `.npz` files hold landmarks, all others are videos."""

_PHOTO_RATE = Fraction(25)
"""A photo is a sequence of one frame; its rate is never seen."""


@dataclass(frozen=True, slots=True)
class Motion:
    """What a clip follows.

    Attributes:
        landmarks: of the driving face.
        sound: float32 [N] mono at `SOUND_RATE`, from the first frame on; None without any.
    """

    landmarks: LandmarkSequence
    sound: np.ndarray | None


def with_mesh(backend: FaceBackend) -> FaceBackend:
    """The backend, asked for all that it knows of a face: MediaPipe for depth, blendshapes and head pose."""
    return dataclasses.replace(backend, mesh=True) if isinstance(backend, MediaPipeBackend) else backend


def file_kind(path: Path) -> str:
    """What a file that drives is, by its name: `PICTURE`, "landmarks" or "video"."""
    if path.suffix.lower() in PICTURES:
        return PICTURE
    return "landmarks" if path.suffix == ".npz" else "video"


def read_motion(path: Path, backend: FaceBackend, *, fps: Fraction | None) -> Motion:
    """What the file `path` makes a face do, at `fps` (None: its own rate).

    Raises:
        ValueError: the file cannot be read, or shows no face.
    """
    kind = file_kind(path)
    if kind == "landmarks":
        landmarks = load_landmarks(path)
        return Motion(resample(landmarks, fps or landmarks.fps), None)
    if kind == PICTURE:
        return Motion(landmarks_of_photo(path, read_photo(path), backend)[0], None)
    with progress(f"{path.name}: looking for the face") as on_frame:
        followed = follow_face(path, backend, fps=fps, on_frame=on_frame)
    landmarks = followed.landmarks
    return Motion(landmarks, sound_of(path, followed.start_s, len(landmarks) / landmarks.fps))


def read_photo(path: Path) -> np.ndarray:
    """A picture file as uint8 [H, W, 3] RGB, upright.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: no such picture, or it cannot be read")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def landmarks_of_photo(path: Path, image: np.ndarray, backend: FaceBackend) -> tuple[LandmarkSequence, Face]:
    """The largest face of a picture as a sequence of one frame, and as it was found.

    Raises:
        ValueError: there is no face.
    """
    face = face_in_photo(image, backend)
    if face is None:
        raise ValueError(f"{path}: no face found in this picture ({backend.name})")
    sequence = sequence_of_faces(
        [face],
        np.zeros(1),
        period=float(1 / _PHOTO_RATE),
        fps=_PHOTO_RATE,
        scheme=backend.landmark_scheme,
        image_size=image.shape[:2],
    )
    return sequence, face


def sound_of(
    source: VideoSource, start_s: float, duration_s: Fraction, *, sample_rate: int = SOUND_RATE
) -> np.ndarray | None:
    """What sounds in a file, or its bytes, from a time on: float32 [N], as long as asked for.

    Silence stands for what is missing at the ends. None without sound; damaged sound is left out too, with a
    warning.
    """
    try:
        samples = read_audio(source, sample_rate=sample_rate)
    except VideoError as error:
        log.warning("%s; the result is silent", error)
        return None
    if samples is None:
        return None
    begin = round(start_s * sample_rate)
    length = round(duration_s * sample_rate)
    samples = np.pad(samples, (max(-begin, 0), 0))[max(begin, 0) :][:length]
    return np.pad(samples, (0, length - len(samples)))
