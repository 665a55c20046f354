"""What is seen of a file as it comes in: faces in a photo, the first frame of a video, speech in a sound."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from portraitgen.data.prepare.picture import encode_jpeg
from portraitgen.data.prepare.speech import speech_share
from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.choice import detect_enlarged
from portraitgen.faces.types import Face
from portraitgen.media.audio import SAMPLE_RATE
from portraitgen.media.decode import VIDEO_SUFFIXES, iter_frames
from portraitgen.media.photo import is_photo, read_photo
from portraitgen.runs.demo.limits import Limits

_SIDE = 384
"""Pixels of the longer side of a preview."""
_MARK = (255, 196, 0)
_SPOKEN = 0.02
"""Share of a sound that must be speech, that it counts as spoken."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a file shows.

    Attributes:
        facts: in words.
        picture: JPEG; None: nothing to see.
        faces: how many were found; None: not looked for.
        problem: what will keep it from being used, or will spoil the result; "": nothing.
    """

    facts: str
    picture: bytes | None = None
    faces: int | None = None
    problem: str = ""


class Look:
    """Looks at files, one after the other.

    Args:
        backend: builds what finds faces.
        limits: what is refused before it is read.
    """

    def __init__(self, backend: Callable[[], FaceBackend], limits: Limits) -> None:
        self._backend, self._limits = backend(), limits
        self._alone = threading.Lock()

    def photo(self, path: Path, name: str) -> Seen:
        """A photo with the faces found in it, numbered from the left.

        Raises:
            ValueError: it cannot be read, or is too large.
        """
        self._limits.check_photo(path)
        with self._alone:
            photo = read_photo(path)
            faces = self._faces(photo)
        height, width = photo.shape[:2]
        problem = "" if faces else self._no_face(name)
        facts = f"{width}×{height} pixels, {_number(len(faces), 'face')} found"
        return Seen(facts, encode_jpeg(_marked(photo, faces)), len(faces), problem)

    def video(self, path: Path, name: str) -> Seen:
        """The first frame of a video with the faces in it; a picture as a photo; of landmarks their number.

        Raises:
            ValueError: it cannot be read, or is too large or too long.
        """
        info = self._limits.check_video(path)
        if info is None:
            return self.photo(path, name) if is_photo(path) else Seen("landmarks")
        with self._alone:
            first = next(iter(iter_frames(path))).image
            faces = self._faces(first)
        sound = "with sound" if info.has_audio else "silent"
        facts = (
            f"{info.duration_s:.1f} s, {info.num_frames} frames of {info.width}×{info.height} pixels, "
            f"{float(info.fps):.4g} a second, {sound}"
        )
        return Seen(facts, encode_jpeg(_marked(first, faces)), len(faces))

    def file(self, path: Path) -> Seen:
        """Any other file: a picture, the first frame of a video, or how large it is.

        Raises:
            ValueError: it is too large.
        """
        if is_photo(path):
            self._limits.check_photo(path)
            photo = read_photo(path)
            return Seen(f"{photo.shape[1]}×{photo.shape[0]} pixels", encode_jpeg(_marked(photo, [])))
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return self.video(path, path.name)
        self._limits.check_size(path)
        return Seen(f"{path.stat().st_size / 1000:.0f} kB")

    def sound(self, path: Path) -> Seen:
        """How long a sound is, and how much of it is speech.

        Raises:
            ValueError: there is none, it cannot be read, or it is too long.
        """
        heard = self._limits.check_sound(path)
        with self._alone:
            share = speech_share(heard)
        seconds = len(heard) / SAMPLE_RATE
        if share >= _SPOKEN:
            return Seen(f"{seconds:.1f} s, {share:.0%} of it speech")
        level = 20 * np.log10(max(float(np.abs(heard).max()), 1e-5))
        problem = (
            f"no speech is heard in these {seconds:.1f} s (loudest at {round(level)} dB): the mouth will "
            "hardly move; give a sound in which somebody speaks"
        )
        return Seen(f"{seconds:.1f} s", problem=problem)

    def _faces(self, photo: np.ndarray) -> list[Face]:
        """The sure faces, from left to right, looked for as generation does."""
        least = self._backend.min_score
        found = [face for face in self._backend.detect(photo) if face.score >= least]
        if not found:
            found = [face for face in detect_enlarged(photo, self._backend) if face.score >= least]
        return sorted(found, key=lambda face: face.box[0] + face.box[2])

    def _no_face(self, name: str) -> str:
        sure = f"{self._backend.name}, score of {self._backend.min_score:g} or more"
        return (
            f"no face found in {name}. Looked for: a whole face, upright, turned to the camera by and large, "
            f"also at twice the photo's size ({sure})"
        )


def _marked(picture: np.ndarray, faces: list[Face]) -> np.ndarray:
    """A small copy with a frame and a number on each face."""
    height, width = picture.shape[:2]
    scale = min(_SIDE / max(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    for number, face in enumerate(faces, start=1):
        left, top, right, bottom = (round(float(edge) * scale) for edge in face.box)
        cv2.rectangle(small, (left, top), (right, bottom), _MARK, 2)
        if len(faces) > 1:
            at = (left + 3, max(top + 18, 18))
            cv2.putText(small, str(number), at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 4, cv2.LINE_AA)
            cv2.putText(small, str(number), at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, _MARK, 2, cv2.LINE_AA)
    return np.ascontiguousarray(small)


def _number(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
