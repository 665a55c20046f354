"""What generate.py takes for it."""

from collections.abc import Iterator
from fractions import Fraction

from portraitgen.faces.reference import read_reference
from portraitgen.training.inputs import Given, Input, SystemInputs, Way
from portraitgen.training.request import Request, StoredClip, request_key


class Inputs(SystemInputs):
    inputs = (
        Input("reference", "photos", "photo of the person"),
        Input("prompt", "text", "what the person does"),
        Input("shards", "shards", "prepared clips with captions, whose persons do what these say"),
        Input("size", "size", "pixels", default=(64, 64)),
        Input("length", "count", "frames, 1 + 4k", default=5, low=1),
        Input("fps", "rate", "frames a second", default=Fraction(8)),
    )
    ways = (
        Way("a person who does what a prompt says", ("reference", "prompt"), ("size", "length", "fps")),
        Way("the persons of prepared clips", ("shards",), ("length",)),
    )

    def requests(self, given: Given) -> Iterator[Request]:
        photos, prompt, length = given["reference"], given["prompt"], given["length"]
        face = read_reference(photos[0][0], self.resources.faces(), size=given["size"], frame="face")
        batch = {"reference": face.picture[None], "caption": [prompt], "length": length}
        key = request_key(photos, prompt)
        yield Request(key=key, batch=batch, length=length, fps=given["fps"], references=photos, prompt=prompt)

    def of_clip(self, clip: StoredClip, given: Given) -> Request | None:
        return clip.request(frames=clip.frames[: given["length"]])
