"""What the toy takes."""

from collections.abc import Iterator
from dataclasses import replace

import cv2
import torch

from portraitgen.media.photo import read_photo
from portraitgen.training.inputs import Given, Input, SystemInputs, Way
from portraitgen.training.request import Request, StoredClip, request_key

SIDE = 144


class Inputs(SystemInputs):
    inputs = (
        Input("reference", "photos", "photos of one or two people", people=2, photos=2),
        Input("shards", "shards", "clips and photos of one person"),
        Input("prompt", "text", "what is to be seen"),
        Input("negative_prompt", "text", "what is not to be seen"),
        Input("inputs.brightness", "number", "of the people", default=1.0, low=0.0, high=1.0),
    )
    ways = (
        Way("a picture of people", ("reference", "prompt"), ("negative_prompt", "inputs.brightness")),
        Way("prepared clips and photos", ("shards",), ("inputs.brightness",)),
    )

    def requests(self, given: Given) -> Iterator[Request]:
        """One picture, of the first photo of each person."""
        pictures = [cv2.resize(read_photo(photos[0]), (SIDE, SIDE)) for photos in given["reference"]]
        photos = torch.stack([torch.from_numpy(each).movedim(-1, 0) / 127.5 - 1 for each in pictures])
        yield Request(
            key=request_key(given["reference"], given["prompt"]),
            batch={"people_photos": photos[None], "brightness": given["inputs.brightness"]},
            references=given["reference"],
            prompt=given["prompt"],
            negative_prompt=given["negative_prompt"],
        )

    def of_clip(self, clip: StoredClip, given: Given) -> Request:
        """The reference for each frame."""
        request = clip.request()
        mine = {
            "people_photos": request.batch["reference"][:, None],
            "brightness": given["inputs.brightness"],
            "landmarks": request.batch["landmarks"],
        }
        return replace(request, batch=mine)
