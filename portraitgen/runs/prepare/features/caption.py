"""A caption of every sample, by a model that the user chooses."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch

from portraitgen.data.features.feature import Unit, weights_digest
from portraitgen.data.pictures import SamplePictures
from portraitgen.data.sample import ClipSample
from portraitgen.media.yuv import rgb_to_uint8
from portraitgen.runs.prepare.features.pretrained import load_pretrained, model_source


@dataclass(frozen=True, slots=True)
class Captions:
    """What an image-to-text or a vision-language model of transformers says, by greedy decoding.

    Attributes:
        model: folder or hub id, such as Salesforce/blip-image-captioning-large (BSD-3-Clause).
        prompt: for models that are talked to (with a chat template), and for others how the caption begins.
        frames: spread evenly over the clip; a model that takes one picture needs 1.
        max_tokens: of the caption.
        device: "auto" takes a GPU where there is one.
        dtype: of the model's weights.
    """

    model: str
    prompt: str | None = None
    frames: int = 1
    max_tokens: int = 128
    device: str = "auto"
    dtype: str = "float32"

    name: ClassVar[str] = "caption"
    batch_key: ClassVar[str] = "caption"
    unit: ClassVar[Unit] = "text"

    def depends_on(self) -> Mapping[str, Any]:
        network, _ = _load(self.model, self.device, self.dtype)
        return {
            "weights": weights_digest(network),
            "prompt": self.prompt,
            "frames": self.frames,
            "max_tokens": self.max_tokens,
        }

    @torch.no_grad()
    def __call__(self, sample: ClipSample) -> str:
        network, processor = _load(self.model, self.device, self.dtype)
        chosen = np.linspace(0, sample.num_frames - 1, min(self.frames, sample.num_frames)).round()
        pictures = SamplePictures(sample)
        images = [rgb_to_uint8(pictures.rgb(int(frame), 1))[0].permute(1, 2, 0).numpy() for frame in chosen]
        chats = getattr(processor, "chat_template", None) is not None
        if chats:
            content = [{"type": "image"} for _ in images] + [{"type": "text", "text": self.prompt or ""}]
            text = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        else:
            text = self.prompt
        inputs = processor(images=images, text=None if text is None else [text], return_tensors="pt")
        inputs = inputs.to(network.device, network.dtype)
        tokens = network.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        # Models that are talked to repeat what they were told.
        said = tokens[:, inputs["input_ids"].shape[1] :] if chats else tokens
        return str(processor.batch_decode(said, skip_special_tokens=True)[0]).strip()


@cache
def _load(model: str, device: str, dtype: str) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    kind: Any = AutoModelForImageTextToText
    setting = "features.caption.model"
    network = load_pretrained(kind, model, setting=setting, device=device, dtype=getattr(torch, dtype))
    return network, AutoProcessor.from_pretrained(model_source(model))
