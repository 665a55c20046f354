"""What CLIP and T5 share: prompts become tokens, cut where they are too long, and the model runs as it is."""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.nn.text.folder import TextFolder

log = logging.getLogger(__name__)


class PretrainedText(ABC):
    """A text encoder of a folder, see `TextEncoder`.

    It is no module on purpose: no weights file or checkpoint holds it, no strategy shards or casts it, and it
    keeps the precision that it was loaded in, under autocast too. A copy that travels to another process
    leaves the weights behind and loads them there.

    Raises:
        ValueError: the model in the folder is of another kind.
    """

    tokenizer_kind: ClassVar[type[PreTrainedTokenizerBase]]

    def __init__(self, files: TextFolder) -> None:
        self._files = files
        self._kind = self.model_kind()
        self._told: set[str] = set()

    @abstractmethod
    def model_kind(self) -> type[PreTrainedModel]:
        """The class of the model in the folder; ValueError where it is none that this encoder is for."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """L, to which every prompt is padded or cut."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that the embeddings depend on beside weights and tokenizer, as JSON takes it."""

    @abstractmethod
    def embed(self, tokens: Tensor, mask: Tensor) -> TextEncoding:
        """Run the model on int64 tokens [B, L]; mask int64 [B, L] is 1 for those that are no padding."""

    @cached_property
    def model(self) -> PreTrainedModel:
        return self._files.load_model(self._kind)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._files.load_tokenizer(self.tokenizer_kind)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], *, device: torch.device | str = "cpu") -> TextEncoding:
        """As `TextEncoder.encode`, in the precision of the weights. A prompt that is cut is told of once."""
        tokens, mask = self._tokenize([self.clean(prompt) for prompt in prompts])
        self.model.to(device)  # type: ignore[arg-type]
        with torch.autocast(torch.device(device).type, enabled=False):
            return self.embed(tokens.to(device), mask.to(device))

    def clean(self, prompt: str) -> str:
        """The prompt as the tokenizer gets it."""
        return prompt

    def tokenizer_digest(self) -> str:
        """SHA-256 of vocabulary and rules."""
        rules = json.loads(self.tokenizer.backend_tokenizer.to_str())
        # What the last call asked for.
        rules.update(padding=None, truncation=None)
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()

    def offload(self) -> None:
        if "model" in self.__dict__:
            self.model.to("cpu")  # type: ignore[arg-type]

    def free(self) -> None:
        self.__dict__.pop("model", None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("model", "tokenizer")}

    def _tokenize(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        padded = self.tokenizer(
            prompts, padding="max_length", max_length=self.max_tokens, truncation=True, return_tensors="pt"
        )
        tokens, mask = padded["input_ids"], padded["attention_mask"]
        for prompt, full in zip(prompts, mask.all(dim=1).tolist(), strict=True):
            if full and prompt not in self._told:
                self._tell_of_cut(prompt)
        return tokens, mask

    def _tell_of_cut(self, prompt: str) -> None:
        whole = self.tokenizer(prompt, verbose=False)["input_ids"]
        if len(whole) > self.max_tokens:
            self._told.add(prompt)
            # The last token, which ends a prompt, is kept.
            lost = self.tokenizer.decode(whole[self.max_tokens - 1 : -1])
            log.warning(
                f"a prompt of {len(whole)} tokens is cut to {self.max_tokens}: the last"
                f" {len(whole) - self.max_tokens} are not seen ({lost!r})"
            )
