"""What UniPortrait takes to generate: people's photos and a prompt, or prepared photos."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor

from portraitgen.faces.recognition.alignment import upright_faces
from portraitgen.faces.templates import ARCFACE
from portraitgen.media.photo import read_photo
from portraitgen.systems.uniportrait.photos import CROP_SIDE, FaceCount, people_crops, photo_sets
from portraitgen.training.inputs import NUM_STEPS, Given, Input, SystemInputs, Way
from portraitgen.training.request import Request, StoredClip, request_key
from portraitgen.training.weights_header import stated_size

_SCALES = ("inputs.people_scale", "inputs.structure_scale")
_WITH_PEOPLE = (
    "prompt",
    "negative_prompt",
    "size",
    "layout",
    "inputs.mix",
    "inputs.tries",
    *_SCALES,
    "inputs.image_prompt",
    "inputs.image_scale",
)


class Inputs(SystemInputs):
    """Makes pictures of one or several people."""

    inputs = (
        Input("reference", "photos", "photos of each person", people=None, photos=None),
        Input("prompt", "text", "what is to be seen"),
        Input("negative_prompt", "text", "what is not to be seen; else that of the sampling settings"),
        Input("size", "size", "pixels; else as the weights were trained"),
        Input("layout", "layout", "where each person shall be; else the router decides", people=None),
        Input("shards", "shards", "prepared photos of people, with captions as prompts"),
        Input(
            "inputs.mix",
            "shares",
            "make a new person of several photos: the share of those after the first, evenly, or one of each "
            "of the last, of which the photos before are one set; else all photos are read as one set",
            low=0.0,
            high=1.0,
        ),
        Input(
            "inputs.people_scale",
            "number",
            "how strongly the people are shown: 0.5 to 0.7 are advised, 0.3 to 0.7 for several",
            low=0.0,
            high=2.0,
        ),
        Input(
            "inputs.structure_scale",
            "number",
            "how much of the photos is shown beside who it is: 0 to 0.4 are advised",
            low=0.0,
            high=2.0,
        ),
        Input("inputs.image_prompt", "file", "a picture whose look is followed (IP-Adapter)"),
        Input("inputs.image_scale", "number", "how strongly it is", low=0.0, high=2.0),
        Input(
            "inputs.tries",
            "count",
            "draw a picture that shows more or fewer faces than people anew, so often at most",
            default=0,
            low=0,
        ),
    )
    sampling = (
        NUM_STEPS,
        Input(
            "sampling.guidance_scale",
            "number",
            "how far pictures are pushed away from the negative prompt",
            low=1.0,
            high=20.0,
        ),
    )
    ways = (
        Way("a picture of people", ("reference",), _WITH_PEOPLE),
        Way("pictures of people in prepared photos", ("shards",), ("negative_prompt", "size", *_SCALES)),
    )

    @classmethod
    def check(cls, given: Given, facts: Mapping[str, Any]) -> None:
        settings = facts["config"]
        people = given["reference"] or ()
        if settings.get("prompts") is None and given["prompt"] is not None:
            raise ValueError("prompt: these weights were trained without text; leave it out")
        if settings.get("prompts") is not None and people and given["prompt"] is None:
            raise ValueError("prompt: not given; describe the picture or video in words")
        if len(people) > 1 and settings["network"].get("router") is None:
            raise ValueError(
                f"reference: {len(people)} people, but these weights are of stage 1 and know one; give "
                "those of stage 2, or [[a.jpg,b.jpg]] for two photos of one"
            )
        if given["layout"] is not None and len(given["layout"]) != len(people):
            raise ValueError(f"layout: {len(given['layout'])} places for {len(people)} people; give one each")
        if people:
            photo_sets([len(photos) for photos in people], given["inputs.mix"])
        if given["inputs.image_prompt"] is not None and settings["network"].get("image_prompt") is None:
            raise ValueError(
                "inputs.image_prompt: these weights have no branch for it (network.image_prompt); convert "
                "the published ones with kind=uniportrait_ip"
            )

    def requests(self, given: Given) -> Iterator[Request]:
        """One picture."""
        people: Sequence[Sequence[Path]] = given["reference"]
        backend = self.resources.faces()
        height, width = self._size(given)
        batch: dict[str, Any] = {
            "people": torch.ones(1, len(people), dtype=torch.bool),
            "faces": people_crops(people, backend),
            "photo_sets": photo_sets([len(photos) for photos in people], given["inputs.mix"]),
            "size": (height, width),
            **_scales(given),
        }
        if given["prompt"] is not None:
            batch["caption"] = [given["prompt"]]
        if given["negative_prompt"] is not None:
            batch["negative_prompt"] = [given["negative_prompt"]]
        if given["layout"] is not None:
            batch["regions"] = torch.stack([_region(place, height, width) for place in given["layout"]])[None]
        if given["inputs.image_prompt"] is not None:
            picture = torch.from_numpy(read_photo(given["inputs.image_prompt"])).movedim(-1, 0)
            batch["image_prompt"] = self._embed_image(picture[None] / 127.5 - 1)
        if given["inputs.tries"]:
            batch["face_count"] = FaceCount(backend, len(people), tries=given["inputs.tries"])
        yield Request(
            key=request_key(people, given["prompt"]),
            batch=batch,
            references=tuple(tuple(photos) for photos in people),
            prompt=given["prompt"],
            negative_prompt=given["negative_prompt"],
        )

    def of_clip(self, clip: StoredClip, given: Given) -> Request | None:
        """A picture of the people of a photo as its caption says; of its main one with weights of stage 1."""
        if clip.landmark_scheme != "ibug68":
            raise ValueError(
                f"shards={given['shards']} hold {clip.landmark_scheme} landmarks: prepare them with "
                "faces=dlib or insightface"
            )
        request = clip.request()
        picture = request.batch["reference"]
        several = self.resources.facts["config"]["network"].get("router") is not None
        points = torch.from_numpy(clip.key_points()[: None if several else 1].copy())
        pictures = picture.expand(len(points), -1, -1, -1)
        crops, found = upright_faces(pictures, points, ARCFACE.scaled(CROP_SIDE))
        assert found.all(), "the reference is a frame that shows the person"
        batch: dict[str, Any] = {
            "people": torch.ones(1, len(points), dtype=torch.bool),
            "faces": crops[None],
            "size": tuple(picture.shape[-2:]) if given["size"] is None else self._size(given),
            **_scales(given),
        }
        if "caption" in request.batch:
            batch["caption"] = request.batch["caption"]
        if given["negative_prompt"] is not None:
            batch["negative_prompt"] = [given["negative_prompt"]]
        # A picture, also of a clip: its landmarks, sound and rate are of what drives no picture.
        return replace(
            request, batch=batch, length=None, fps=None, sound=None, frames=None, landmarks=None, scheme=None
        )

    def _size(self, given: Given) -> tuple[int, int]:
        """(height, width).

        Raises:
            ValueError: the codec cannot have it.
        """
        size = given["size"]
        if size is None:
            size = stated_size(self.resources.facts, "size", default=512)
        factor = self.resources.system.codec.factor
        if any(side % factor for side in size):
            raise ValueError(f"size=[{size[0]},{size[1]}]: both sides must be multiples of {factor}")
        return size[0], size[1]

    def _embed_image(self, picture: Tensor) -> Tensor:
        features: Any = self.resources.system.features
        if features.clip is None:
            raise ValueError("inputs.image_prompt: these weights were trained without CLIP")
        embeds: Tensor = features.clip(picture.to(self.resources.device))
        return embeds


def _scales(given: Given) -> dict[str, float]:
    """What of them was given, as `sample` takes it."""
    names = ("people_scale", "structure_scale", "image_scale")
    values = {name: given[f"inputs.{name}"] for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _region(place: Path | tuple[float, ...], height: int, width: int) -> Tensor:
    """[height, width] of 0 and 1."""
    if isinstance(place, Path):
        mask = cv2.resize(read_photo(place), (width, height), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(mask.max(axis=-1) > 127).float()
    region = torch.zeros(height, width)
    left, top, right, bottom = place
    region[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 1
    return region
