"""What a text encoder makes of prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TextEncoding:
    """Embeddings of B prompts.

    embeds  float [B, L, D]   one row a token
    mask    bool  [B, L]      rows that are embeddings; the others are zeros. All of them where a pipeline
                              encodes the padding like words, and its network looks at it
    pooled  float [B, P]      one vector a prompt, None for encoders that have none
    """

    embeds: Tensor
    mask: Tensor
    pooled: Tensor | None = None

    @classmethod
    def zeros(
        cls, batch: int, width: int, *, like: Tensor, tokens: int = 1, pooled: int | None = None
    ) -> "TextEncoding":
        """What stands for a text where none is read: `tokens` zeros of `width`, and one of `pooled`."""
        return cls(
            like.new_zeros(batch, tokens, width),
            torch.ones(batch, tokens, dtype=torch.bool, device=like.device),
            None if pooled is None else like.new_zeros(batch, pooled),
        )

    @classmethod
    def from_conditions(cls, conditions: Mapping[str, Tensor]) -> "TextEncoding":
        """Inverse of `conditions`."""
        return cls(conditions["text"], conditions["text_mask"], conditions.get("text_pooled"))

    def conditions(self) -> dict[str, Tensor]:
        """The parts as conditions of a denoiser: `text`, `text_mask` and, if there is one, `text_pooled`."""
        parts = {"text": self.embeds, "text_mask": self.mask}
        return parts if self.pooled is None else {**parts, "text_pooled": self.pooled}

    def to(self, like: Tensor) -> "TextEncoding":
        """The same on the device and in the precision of `like`."""
        return TextEncoding(
            self.embeds.to(like),
            self.mask.to(like.device),
            None if self.pooled is None else self.pooled.to(like),
        )


def stack_encodings(encodings: Sequence[TextEncoding]) -> TextEncoding:
    """Several encodings as one, in their order."""
    pooled = [one.pooled for one in encodings if one.pooled is not None]
    return TextEncoding(
        torch.cat([one.embeds for one in encodings]),
        torch.cat([one.mask for one in encodings]),
        torch.cat(pooled) if pooled else None,
    )


class TextEncoder(Protocol):
    """A frozen model that embeds prompts; its weights are loaded when it is first asked."""

    def encode(self, prompts: Sequence[str], *, device: torch.device | str = "cpu") -> TextEncoding:
        """Embed prompts, one or more, on `device`; the model stays there."""
        ...

    def offload(self) -> None:
        """Move the weights to the CPU, until the next prompt."""
        ...

    def free(self) -> None:
        """Forget the weights; the next prompt loads them again."""
        ...
