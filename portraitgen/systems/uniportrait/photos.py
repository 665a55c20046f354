"""People's photos as the upright crops that UniPortrait reads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.padded_search import find_face
from portraitgen.faces.templates import ARCFACE, upright_crop
from portraitgen.media.photo import read_photo

CROP_SIDE = 224
"""Pixels: the side of CLIP's picture, and twice that of the recognition network's."""


def face_crop(path: Path, backend: FaceBackend) -> Tensor:
    """The largest face of a photo, [3, 224, 224] in [-1, 1].

    A face that fills the photo is often found only with a border around it, which is tried next.

    Raises:
        ValueError: the photo cannot be read or shows no face.
    """
    photo = read_photo(path)
    face = find_face(photo, backend)
    if face is None:
        raise ValueError(
            f"reference={path}: {backend.name} finds no face in it; give a photo that shows the face "
            "larger and from the front, or another face backend (faces=insightface)"
        )
    crop = upright_crop(photo, face.keypoints, ARCFACE.scaled(CROP_SIDE))
    return torch.from_numpy(crop).movedim(-1, 0) / 127.5 - 1


def people_crops(people: Sequence[Sequence[Path]], backend: FaceBackend) -> tuple[Tensor, Tensor]:
    """Crops [1, N, J, 3, 224, 224] of up to J photos of each person, and bool [1, N, J], which there are.

    Raises:
        ValueError: a photo shows no face.
    """
    most = max(map(len, people))
    crops = torch.zeros(1, len(people), most, 3, CROP_SIDE, CROP_SIDE)
    there = torch.zeros(1, len(people), most, dtype=torch.bool)
    for person, photos in enumerate(people):
        for number, path in enumerate(photos):
            crops[0, person, number] = face_crop(path, backend)
            there[0, person, number] = True
    return crops, there


def blend_weights(there: Tensor, share: float) -> Tensor:
    """[1, N, J]: 1 - `share` for the first photo of a person, the rest evenly for their others."""
    others = there.clone()
    others[..., 0] = False
    count = others.sum(dim=-1, keepdim=True)
    weights = others * (share / count.clamp(min=1))
    weights[..., 0] = 1 - weights.sum(dim=-1)
    return weights


class FaceCount:
    """Counts faces in what was drawn, so that pictures with too many or too few are drawn again.

    Args:
        backend: finds them.
        wanted: how many there shall be.
        tries: how often a picture is drawn anew.
    """

    def __init__(self, backend: FaceBackend, wanted: int, *, tries: int) -> None:
        self.backend, self.wanted, self.tries = backend, wanted, tries

    def is_right(self, picture: Tensor) -> bool:
        """Of one picture [3, H, W] in [-1, 1]."""
        pixels = ((picture.float() + 1) * 127.5).round().clamp(0, 255).byte().movedim(0, -1).cpu().numpy()
        found = [
            face
            for face in self.backend.detect(np.ascontiguousarray(pixels))
            if face.score >= self.backend.min_score
        ]
        return len(found) == self.wanted
