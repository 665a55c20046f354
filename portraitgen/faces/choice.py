"""Which of several faces is meant: the largest, the one on the left or right, or one by number."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.types import Face

log = logging.getLogger(__name__)

LARGEST = "largest"
_SIDES = ("left", "right")


def choose(boxes: np.ndarray, which: str, *, name: str) -> int:
    """Row of the face that is meant.

    Args:
        boxes: [N, 4] xyxy of N > 0 faces, as the viewer sees them.
        which: largest, left, right, or a number from 1 on.
        name: of the picture, for the message.

    Raises:
        ValueError: there are fewer faces than the number says.
    """
    sizes = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    if which == LARGEST:
        return int(sizes.argmax())
    from_left = np.argsort(boxes[:, 0] + boxes[:, 2], kind="stable")
    if which in _SIDES:
        return int(from_left[0 if which == "left" else -1])
    if int(which) > len(boxes):
        raise ValueError(f"{name}: face {which} is asked for, but {len(boxes)} faces are found in it")
    return int(from_left[int(which) - 1])


def choose_face(faces: Sequence[Face], which: str, *, name: str) -> Face | None:
    """The face of a picture that is meant, with a line when it was one of several; None without any."""
    if not faces:
        return None
    row = choose(np.array([face.box for face in faces]), which, name=name)
    if len(faces) > 1:
        log.info("%s: %d faces are found, %s is taken", name, len(faces), in_words(which))
    return faces[row]


def in_words(which: str) -> str:
    """`the largest`, `the one on the left`, `number 2 from the left`."""
    if which == LARGEST:
        return "the largest"
    return f"the one on the {which}" if which in _SIDES else f"number {which} from the left"


def detect_enlarged(image: np.ndarray, backend: FaceBackend) -> list[Face]:
    """The faces of a picture looked at at twice its size, in its own pixels: small ones are missed else."""
    height, width = image.shape[:2]
    doubled = cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_CUBIC)
    return [
        replace(face, box=face.box / 2, keypoints=face.keypoints / 2, landmarks=face.landmarks / 2)
        for face in backend.detect(doubled)
    ]
