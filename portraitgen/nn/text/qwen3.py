"""Qwen3's hidden states, as FLUX.2 klein reads them."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Tokenizer, Qwen3ForCausalLM

from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.nn.text.folder import TextFolder
from portraitgen.nn.text.pretrained import PretrainedText


class Qwen3Text(PretrainedText):
    """The hidden states of some layers of Qwen3, one behind the other: L tokens of len(layers)·D numbers.

    `encode_prompt` of diffusers' Flux2KleinPipeline puts the prompt as a user's message, without thinking,
    pads it to 512 tokens, which are not attended to, and gives the padding's hidden states too.

    Args:
        files: where it lies.
        max_tokens: L.
        layers: counted from the embedding, which is 0.
    """

    tokenizer_kind = Qwen2Tokenizer

    def __init__(
        self, files: TextFolder, *, max_tokens: int = 512, layers: Sequence[int] = (9, 18, 27)
    ) -> None:
        super().__init__(files)
        if max_tokens < 1 or not layers:
            raise ValueError(f"max_tokens={max_tokens}, layers={list(layers)}: give at least 1 of both")
        self._max_tokens, self.layers = max_tokens, tuple(layers)

    @classmethod
    def from_pretrained(
        cls,
        folder: str,
        *,
        max_tokens: int = 512,
        layers: Sequence[int] = (9, 18, 27),
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
        return cls(files, max_tokens=max_tokens, layers=layers)

    def model_kind(self) -> type[PreTrainedModel]:
        if self._files.model_type() != "qwen3":
            raise ValueError(f"{self._files.model_folder} holds a {self._files.model_type()}, not a qwen3")
        return Qwen3ForCausalLM

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    def settings(self) -> dict[str, Any]:
        return {"encoder": "Qwen3Text", "max_tokens": self.max_tokens, "layers": list(self.layers)}

    def clean(self, prompt: str) -> str:
        """As the chat template has it."""
        return str(
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        )

    def embed(self, tokens: Tensor, mask: Tensor) -> TextEncoding:
        states = self.model(
            input_ids=tokens, attention_mask=mask, output_hidden_states=True, use_cache=False
        ).hidden_states
        embeds = torch.cat([states[layer] for layer in self.layers], dim=-1)
        return TextEncoding(embeds, torch.ones_like(mask, dtype=torch.bool))
