"""What generate.py takes for it."""

from collections.abc import Iterator

from portraitgen.training.inputs import Given, Input, SystemInputs, Way
from portraitgen.training.request import Request, request_key


class Inputs(SystemInputs):
    inputs = (
        Input("prompt", "text", "what is to be seen"),
        Input("negative_prompt", "text", "what is not to be seen", default=""),
        Input("size", "size", "pixels", default=(32, 32)),
    )
    ways = (Way("a picture of what a prompt says", ("prompt",), ("negative_prompt", "size")),)

    def requests(self, given: Given) -> Iterator[Request]:
        texts = {"prompt": given["prompt"], "negative_prompt": given["negative_prompt"]}
        batch = {
            "caption": [texts["prompt"]],
            "negative_prompt": [texts["negative_prompt"]],
            "size": given["size"],
        }
        yield Request(key=request_key((), texts["prompt"]), batch=batch, **texts)
