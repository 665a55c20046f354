"""People's photos as the upright crops that UniPortrait reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.padded_search import find_face, sure_faces
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


def people_crops(people: Sequence[Sequence[Path]], backend: FaceBackend) -> Tensor:
    """Crops [1, N, J, 3, 224, 224] of up to J photos of each person, zeros where there are fewer.

    Raises:
        ValueError: a photo shows no face.
    """
    crops = torch.zeros(1, len(people), max(map(len, people)), 3, CROP_SIDE, CROP_SIDE)
    for person, photos in enumerate(people):
        for number, path in enumerate(photos):
            crops[0, person, number] = face_crop(path, backend)
    return crops


class PhotoSets(NamedTuple):
    """Which photos are read together, and how much of a person each set makes.

    Attributes:
        members: bool [B, N, K, J], the photos of K sets.
        shares: [B, N, K], of a person 1 together; a share of 0 is of an empty set.
    """

    members: Tensor
    shares: Tensor


def photo_sets(counts: Sequence[int], mix: float | Sequence[Sequence[float]] | None = None) -> PhotoSets:
    """The sets [1, N, K] of people of whom there are `counts` photos.

    Args:
        mix: None: all photos of a person are one set. A list for each person: shares of their last photos,
            each read by itself, the photos before which are one set with the rest of the shares. A number:
            that of all photos but the first, evenly.

    Raises:
        ValueError: lists for another number of people, more shares than a person has photos after the first,
            or a number where nobody has a second photo.
    """
    if mix is None:
        mix = [() for _ in counts]
    elif isinstance(mix, float):
        if max(counts) < 2:
            raise ValueError(
                f"inputs.mix={mix:g}: nobody has two photos to be mixed; [[a.jpg,b.jpg]] is one person with "
                "two, [a.jpg,b.jpg] are two people"
            )
        mix = [[mix / max(1, count - 1)] * (count - 1) for count in counts]
    if len(mix) != len(counts):
        raise ValueError(f"inputs.mix: shares of {len(mix)} people, but there are {len(counts)}")
    for number, (count, shares) in enumerate(zip(counts, mix, strict=True), start=1):
        if len(shares) >= count:
            raise ValueError(
                f"inputs.mix: {len(shares)} shares for the {count} photos of person {number}; give at most "
                f"{count - 1}: the first photo has what is left"
            )
    most = 1 + max(map(len, mix))
    members = torch.zeros(1, len(counts), most, max(counts), dtype=torch.bool)
    weights = torch.zeros(1, len(counts), most)
    for person, (count, shares) in enumerate(zip(counts, mix, strict=True)):
        first = count - len(shares)
        members[0, person, 0, :first] = True
        weights[0, person, 0] = 1 - sum(shares)
        for number, share in enumerate(shares):
            members[0, person, 1 + number, first + number] = True
            weights[0, person, 1 + number] = share
    return PhotoSets(members, weights)


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
        return len(sure_faces(np.ascontiguousarray(pixels), self.backend)) == self.wanted
