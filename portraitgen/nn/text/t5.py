"""T5's encoder, as CogVideoX, ConsisID and Flux use it, and UMT5's, as Wan does."""

import html
from typing import Any, Self

import ftfy
import torch
from torch import Tensor
from transformers import PreTrainedModel, T5EncoderModel, T5Tokenizer, UMT5EncoderModel

from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.nn.text.folder import TextFolder
from portraitgen.nn.text.pretrained import PretrainedText

_KINDS: dict[str, type[PreTrainedModel]] = {"t5": T5EncoderModel, "umt5": UMT5EncoderModel}


class T5Text(PretrainedText):
    """T5 (Raffel et al. 2020) or UMT5 (Chung et al. 2023), by what the folder holds: L hidden states.

    `encode_prompt` of diffusers' CogVideoXPipeline, ConsisIDPipeline (226 tokens) and FluxPipeline (512)
    encode the padding like words, and so do we unless `masked`; WanPipeline (512) hides it from the encoder,
    gives zeros in its place, and cleans the prompt.

    Half precision should be bfloat16: T5 was trained in it, and float16 overflows.

    Args:
        files: where it lies.
        max_tokens: L.
        masked: the encoder attends to the prompt's own tokens only; zeros come after them.
        clean: mend encoding mistakes (ftfy), HTML entities and white space first.
    """

    tokenizer_kind = T5Tokenizer

    def __init__(
        self, files: TextFolder, *, max_tokens: int, masked: bool = False, clean: bool = False
    ) -> None:
        super().__init__(files)
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens}: give at least 1")
        self._max_tokens, self.masked, self.cleans = max_tokens, masked, clean

    @classmethod
    def from_pretrained(
        cls,
        folder: str,
        *,
        max_tokens: int,
        masked: bool = False,
        clean: bool = False,
        text_encoder: str = "text_encoder",
        tokenizer: str = "tokenizer",
        dtype: str = "auto",
        source: str = "",
    ) -> Self:
        """The encoder in `folder`, see `TextFolder`.

        Raises:
            ValueError: files are missing, named with where to get them.
        """
        files = TextFolder(folder, text_encoder, tokenizer, dtype, source)
        return cls(files, max_tokens=max_tokens, masked=masked, clean=clean)

    def model_kind(self) -> type[PreTrainedModel]:
        found = self._files.model_type()
        if found not in _KINDS:
            raise ValueError(f"{self._files.model_folder} holds a {found}, not a {' or '.join(_KINDS)}")
        return _KINDS[found]

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    def settings(self) -> dict[str, Any]:
        own = {"max_tokens": self.max_tokens, "masked": self.masked, "clean": self.cleans}
        return {"encoder": "T5Text", **own}

    def clean(self, prompt: str) -> str:
        if not self.cleans:
            return prompt
        return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())

    def embed(self, tokens: Tensor, mask: Tensor) -> TextEncoding:
        if not self.masked:
            embeds = self.model(tokens).last_hidden_state
            return TextEncoding(embeds, torch.ones_like(mask, dtype=torch.bool))
        real = mask.bool()
        embeds = self.model(tokens, attention_mask=mask).last_hidden_state
        return TextEncoding(embeds.masked_fill(~real[..., None], 0), real)
