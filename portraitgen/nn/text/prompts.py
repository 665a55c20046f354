"""The prompts of a batch as embeddings: of its captions, or computed before; and the empty prompt."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from portraitgen.nn.text.encoding import TextEncoder, TextEncoding, stack_encodings


class Prompts:
    """Hands out the embeddings of prompts, the same ones whether they are computed here or were stored.

    Each prompt is encoded on its own, so that its embeddings depend on nothing else: not on the batch, and
    not on what is remembered; a run that was resumed computes the same bits. In a model's configuration::

        prompts:
          _target_: portraitgen.nn.text.prompts.Prompts
          encoder: # as in conf/text
            _target_: portraitgen.nn.text.t5.T5Text.from_pretrained
            folder: ${paths.models}/CogVideoX-5b
            max_tokens: 226

    Args:
        encoder: None where embeddings come with every batch.
        cache_size: prompts that are remembered, the last ones used; they stay on their device.
    """

    def __init__(self, encoder: TextEncoder | None = None, *, cache_size: int = 32) -> None:
        if cache_size < 1:
            raise ValueError(f"cache_size={cache_size}: give at least 1")
        self.encoder = encoder
        self._cache_size = cache_size
        self._known: OrderedDict[tuple[str, torch.device], TextEncoding] = OrderedDict()
        self._stored_empty: TextEncoding | None = None

    def encode(self, prompts: Sequence[str], *, like: Tensor) -> TextEncoding:
        """Embeddings of prompts (positive or negative ones) on the device and in the precision of `like`.

        Raises:
            ValueError: there is no encoder.
        """
        assert prompts, "one prompt or more"
        return stack_encodings([self._encode(prompt, like.device).to(like) for prompt in prompts])

    def of_batch(self, batch: Mapping[str, Any], *, like: Tensor) -> TextEncoding:
        """Of a batch: its `prompt_embeds`, `prompt_mask` and `pooled_prompt_embeds`, or of its `caption`.

        Raises:
            ValueError: it has neither, or captions and there is no encoder.
        """
        if "prompt_embeds" in batch:
            if "empty_prompt_embeds" in batch:
                self._stored_empty = _stored(batch, "empty_")
            return _stored(batch, "").to(like)
        if "caption" in batch:
            return self.encode(batch["caption"], like=like)
        raise ValueError(
            "a batch has neither captions nor embeddings of prompts: compute them with prepare.py features"
            " 'features=[prompt]' and set data.examples.features=[prompt], or let the batch have captions"
        )

    def with_empty(self, text: TextEncoding, keep: Tensor | None) -> TextEncoding:
        """`text` with the empty prompt in place where `keep`, bool [B], is False; None keeps all.

        Raises:
            ValueError: no empty prompt came with the batches, and there is no encoder.
        """
        if keep is None:
            return text
        empty = self.encode([""], like=text.embeds)
        pooled = text.pooled
        if pooled is not None:
            assert empty.pooled is not None, "pooled vectors without that of the empty prompt"
            pooled = torch.where(keep[:, None], pooled, empty.pooled)
        embeds = torch.where(keep[:, None, None], text.embeds, empty.embeds)
        return TextEncoding(embeds, torch.where(keep[:, None], text.mask, empty.mask), pooled)

    def offload(self) -> None:
        """Move the encoder's weights to the CPU until the next new prompt."""
        if self.encoder is not None:
            self.encoder.offload()

    def free(self) -> None:
        """Forget the encoder's weights until the next new prompt; what was encoded is remembered."""
        if self.encoder is not None:
            self.encoder.free()

    def _encode(self, prompt: str, device: torch.device) -> TextEncoding:
        if prompt == "" and self._stored_empty is not None:
            # Training from stored embeddings never loads an encoder.
            return self._stored_empty
        known = self._known.pop((prompt, device), None)
        if known is None:
            if self.encoder is None:
                raise ValueError(
                    f"there is no text encoder for the prompt {prompt!r}: set the encoder of the model's"
                    " prompts, or train on the feature prompt, with which the empty prompt comes too"
                )
            known = self.encoder.encode([prompt], device=device)
        self._known[prompt, device] = known
        if len(self._known) > self._cache_size:
            self._known.popitem(last=False)
        return known


def _stored(batch: Mapping[str, Any], prefix: str) -> TextEncoding:
    return TextEncoding(
        batch[f"{prefix}prompt_embeds"],
        batch[f"{prefix}prompt_mask"],
        batch.get(f"{prefix}pooled_prompt_embeds"),
    )
