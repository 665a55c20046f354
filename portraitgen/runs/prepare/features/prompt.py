"""The caption of every sample as embeddings, so that training needs no text encoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from portraitgen.data.features.feature import Unit, weights_digest
from portraitgen.data.sample import ClipSample, DataError
from portraitgen.runs.prepare.features.pretrained import chosen_device

if TYPE_CHECKING:
    from portraitgen.nn.text.encoding import TextEncoding
    from portraitgen.nn.text.pretrained import PretrainedText


@dataclass(frozen=True)
class PromptEmbeddings:
    """Float16 [n, D]: the rows that `encoder` gives, without the zeros after them.

    Attributes:
        encoder: CLIPText or T5Text, see nn/text.
        captions: null for the captions in the shards, or the full name of a feature of texts that takes their
            place, such as "caption@1a2b3c4d".
        device: "auto" takes a GPU where there is one.
    """

    encoder: "PretrainedText"
    captions: str | None = None
    device: str = "auto"

    name: ClassVar[str] = "prompt"
    batch_key: ClassVar[str] = "prompt_embeds"
    unit: ClassVar[Unit] = "tokens"

    def __post_init__(self) -> None:
        if self.captions is not None and "@" not in self.captions:
            raise ValueError(
                f"features.{self.name}.captions={self.captions}: give the full name of the feature, such as"
                f" {self.captions}@1a2b3c4d (a folder of aux/), so that other captions are another feature"
            )
        if not hasattr(self.encoder, "tokenizer_digest"):
            raise ValueError(
                f"features.{self.name}.encoder: give one encoder, CLIPText or T5Text; those of a pair are two"
                " features, prompt and pooled_prompt"
            )

    def depends_on(self) -> Mapping[str, Any]:
        return {
            "weights": weights_digest(self.encoder.model),
            "tokenizer": self.encoder.tokenizer_digest(),
            "captions": self.captions,
            **self.encoder.settings(),
        }

    def __call__(self, sample: ClipSample) -> np.ndarray:
        if sample.caption is None:
            raise DataError("has no caption")
        return self._value(sample.caption)

    def empty(self) -> np.ndarray:
        return self._value("")

    def _value(self, caption: str) -> np.ndarray:
        encoding = self.encoder.encode([caption], device=chosen_device(self.device))
        value = self._part(encoding).astype(np.float16)
        if not np.isfinite(value).all():
            raise DataError("its embeddings leave the range of float16: use encoder.dtype=bfloat16")
        return value

    def _part(self, encoding: "TextEncoding") -> np.ndarray:
        return encoding.embeds[0, encoding.mask[0]].float().cpu().numpy()


@dataclass(frozen=True)
class PooledPromptEmbeddings(PromptEmbeddings):
    """Float16 [P]: the one vector that `encoder`, a CLIPText, gives of the whole caption."""

    name: ClassVar[str] = "pooled_prompt"
    batch_key: ClassVar[str] = "pooled_prompt_embeds"
    unit: ClassVar[Unit] = "sample"

    def _part(self, encoding: "TextEncoding") -> np.ndarray:
        if encoding.pooled is None:
            raise ValueError(f"features.{self.name}.encoder: a T5 has no pooled vector; give a CLIPText")
        return encoding.pooled[0].float().cpu().numpy()
