"""The photo of a person, framed as a model draws it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.choice import LARGEST
from portraitgen.faces.landmark_sequence import LandmarkSequence
from portraitgen.faces.motion import landmarks_of_photo
from portraitgen.media.framing import Framing, face_frame, frame_around, largest_frame, upstream_box
from portraitgen.media.photo import read_photo

Frame = Literal["face", "crop", "letterbox", "aniportrait"]

MARGIN = 0.4
"""Space around a face in a photo, in face sizes: that of conf/prepare.yaml."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A photo as the model sees it.

    Attributes:
        path: of the photo.
        picture: float [3, H, W] in [-1, 1].
        landmarks: of its face, one frame, in pixels of `picture`.
        framing: from pixels of the photo to those of `picture`.
        photo_size: (height, width) of the photo.
    """

    path: Path
    picture: Tensor
    landmarks: LandmarkSequence
    framing: Framing
    photo_size: tuple[int, int]


def read_reference(
    path: Path,
    backend: FaceBackend,
    *,
    size: tuple[int, int],
    frame: Frame,
    which: str = LARGEST,
    margin: float = MARGIN,
) -> Reference:
    """The photo `path`, framed for pictures of `size` (height, width).

    Args:
        frame: "face" cuts out the face as in prepared clips; "crop" shows as much of the photo as has the
            proportion of `size`; "letterbox" all of it, with black bars; "aniportrait" what the official
            code cuts out.
        which: of several faces, see `choice`.
        margin: space around the face with "face", in face sizes.

    Raises:
        ValueError: the photo cannot be read or shows no face.
    """
    photo = read_photo(path)
    landmarks, face = landmarks_of_photo(path, photo, backend, which=which)
    height, width = photo.shape[:2]
    if frame == "face":
        framing = face_frame(face.box, image_size=(height, width), size=size, margin=margin)
    elif frame == "crop":
        framing = largest_frame(face.box, image_size=(height, width), size=size)
    elif frame == "letterbox":
        framing = frame_around(np.array([0, 0, width, height]), size=size)
    else:
        framing = frame_around(upstream_box(face.landmarks, image_size=(height, width)), size=size)
    picture = torch.from_numpy(framing.cut(photo)).movedim(-1, 0) / 127.5 - 1
    return Reference(path, picture, _framed(landmarks, framing), framing, (height, width))


def _framed(landmarks: LandmarkSequence, framing: Framing) -> LandmarkSequence:
    """Landmarks of a photo in pixels of what is shown of it."""
    mesh = landmarks.mesh
    if mesh is not None:
        height, width = landmarks.image_size
        places = framing.to_frame(mesh[..., :2] * np.array([width, height]))
        places /= np.array([framing.size[1], framing.size[0]], np.float32)
        # Depth is on the scale of x: in widths of the picture.
        depth = mesh[..., 2:] * (width / framing.width)
        mesh = np.concatenate([places, depth], axis=-1).astype(np.float32)
    return dataclasses.replace(
        landmarks, points=framing.to_frame(landmarks.points), image_size=framing.size, mesh=mesh
    )
