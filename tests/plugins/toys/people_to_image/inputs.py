"""What generate.py takes for it."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from portraitgen.faces.backend import largest_face
from portraitgen.faces.templates import ARCFACE, upright_crop
from portraitgen.media.photo import read_photo
from portraitgen.training.inputs import Given, Input, SystemInputs, Way
from portraitgen.training.request import Request, request_key


class Inputs(SystemInputs):
    inputs = (
        Input("reference", "photos", "a photo of each person", people=None),
        Input("size", "size", "pixels", default=(64, 64)),
    )
    ways = (Way("a picture of these people", ("reference",), ("size",)),)

    def requests(self, given: Given) -> Iterator[Request]:
        photos = given["reference"]
        faces = torch.stack([self._face(photo) for (photo,) in photos])[None]
        batch = {
            "faces": faces,
            "people": torch.ones(1, len(photos), dtype=torch.bool),
            "size": given["size"],
        }
        yield Request(key=request_key(photos), batch=batch, references=photos)

    def _face(self, photo: Path) -> Tensor:
        """The largest face of a photo, [3, 112, 112] in [-1, 1]."""
        picture = read_photo(photo)
        face = largest_face(self.resources.faces().detect(picture))
        if face is None:
            raise ValueError(f"reference={photo}: it shows no face")
        crop = upright_crop(picture, face.keypoints, ARCFACE)
        return torch.from_numpy(crop).movedim(-1, 0) / 127.5 - 1
