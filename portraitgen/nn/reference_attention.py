"""Spatial attention that also reads the tokens of a reference image, passed as arguments.

AniPortrait and Loopy run a second U-Net over the reference image; the self-attention of the denoising U-Net
takes the reference's tokens of the same layer as additional keys and values. Here the reference U-Net
returns these tokens and the denoising U-Net receives them: no hooks and no module state, so that gradient
checkpointing, DDP and compilation see an ordinary function.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

KeyValue = tuple[Tensor, Tensor]
# What a layer reads of its reference: tokens [B, L, C], or the keys and values [B, L, D] made of them.
Reference = Tensor | KeyValue


@dataclass(frozen=True)  # without slots: DeepSpeed's ZeRO-3 looks by vars() into what a module returns
class ReferenceFeatures:
    """What the reference U-Net makes of images.

    Attributes:
        tokens: normalised, [B, L, C], that enter each of its self-attentions, in running order.
        maps: [B, C, h, w] of each place, if asked for: the tokens where there is attention, else what its
            resnet gives.
    """

    tokens: tuple[Tensor, ...]
    maps: tuple[Tensor, ...] = ()

    def rounded(self, dtype: torch.dtype) -> "ReferenceFeatures":
        """The same features with the precision of `dtype`, in their own dtype."""
        return self._each(lambda values: values.to(dtype).to(values.dtype))

    def rows(self, chosen: slice) -> "ReferenceFeatures":
        """Those of some of the images."""
        return self._each(lambda values: values[chosen])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "ReferenceFeatures":
        return ReferenceFeatures(tuple(map(change, self.tokens)), tuple(map(change, self.maps)))


@dataclass(frozen=True, slots=True)
class ReferenceKeyValues:
    """Keys and values [B, L, D] of the reference for each self-attention of the denoising U-Net.

    In running order. They depend on neither the noisy frames nor the time, so one object serves all frames,
    windows and sampling steps of a clip.
    """

    pairs: tuple[KeyValue, ...]


class ReferenceTransformerBlock(nn.Module):
    """Self-attention (with reference), one-token cross attention and feed-forward, each with a residual.

    Takes over the modules of diffusers' ``BasicTransformerBlock`` under the same names. The cross attention
    has a single context token: its softmax is 1 and its output ``to_out(to_v(token))``, whatever the query.
    So `norm2`, `attn2.to_q` and `attn2.to_k` are never run and need no gradient; published checkpoints hold
    them.
    """

    gathered_for = ("project_reference",)
    """Methods that are called from outside, beside `forward`, and need parameters (training/sharding.py)."""

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__()
        self.norm1 = block.norm1
        self.attn1 = block.attn1
        self.norm2 = block.norm2
        self.attn2 = block.attn2
        self.norm3 = block.norm3
        self.ff = block.ff
        for unused in (self.norm2, self.attn2.to_q, self.attn2.to_k):
            unused.requires_grad_(False)

    def freeze_behind_tokens(self) -> None:
        """Take the gradient from everything behind `norm1`, for a block that only runs with `tokens_only`."""
        for module in (self.attn1, self.attn2, self.norm3, self.ff):
            module.requires_grad_(False)

    def project_reference(self, tokens: Tensor) -> KeyValue:
        """Keys and values [B, L, D] of the reference's tokens [B, L, C]."""
        return self._keys_values(tokens)

    def _keys_values(self, tokens: Tensor) -> KeyValue:
        return self.attn1.to_k(tokens), self.attn1.to_v(tokens)

    def forward(
        self,
        hidden: Tensor,
        context: Tensor,
        reference: Reference | None = None,
        keep: Tensor | None = None,
        tokens_only: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return the new hidden states and the normalised tokens, both [B*T, L, C].

        Args:
            hidden: [B*T, L, C], T frames of each of B clips.
            context: [B, 1, D], the one token of the cross attention.
            reference: tokens, or keys and values, that all T frames of a clip read.
            keep: [B] bool; False: the clip does not see its reference.
            tokens_only: stop after the tokens and return `hidden` as it came.
        """
        tokens = self.norm1(hidden)
        if tokens_only:
            return hidden, tokens
        if isinstance(reference, Tensor):
            reference = self._keys_values(reference)
        hidden = hidden + reference_attention(self.attn1, tokens, reference, keep)
        seen = _project_out(self.attn2, self.attn2.to_v(context))
        hidden = hidden + seen.repeat_interleave(hidden.shape[0] // context.shape[0], dim=0)
        return hidden + self.ff(self.norm3(hidden)), tokens


class SpatialTransformer(nn.Module):
    """Group norm, 1x1 convolution, `ReferenceTransformerBlock`s over the pixels, 1x1 convolution, residual.

    Takes over the modules of diffusers' ``Transformer2DModel`` under the same names.
    """

    def __init__(self, transformer: Transformer2DModel) -> None:
        super().__init__()
        self.norm = transformer.norm
        self.proj_in = transformer.proj_in
        self.transformer_blocks = nn.ModuleList(
            ReferenceTransformerBlock(cast(BasicTransformerBlock, block))
            for block in transformer.transformer_blocks
        )
        self.proj_out = transformer.proj_out

    @property
    def blocks(self) -> list[ReferenceTransformerBlock]:
        """The transformer blocks in running order."""
        return cast(list[ReferenceTransformerBlock], list(self.transformer_blocks))

    def freeze_behind_tokens(self) -> None:
        """Take the gradient from everything behind the last tokens, for use with `tokens_only`."""
        self.blocks[-1].freeze_behind_tokens()
        self.proj_out.requires_grad_(False)

    def forward(
        self,
        hidden: Tensor,
        context: Tensor,
        references: tuple[Reference, ...] | None = None,
        keep: Tensor | None = None,
        tokens_only: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the new hidden states [B*T, C, H, W] and the tokens [B*T, H*W, C] of each block.

        `references` holds one entry for each block; the other arguments are those of
        `ReferenceTransformerBlock.forward`. With `tokens_only` nothing behind the last block's tokens is
        run, and `hidden` comes back as it was.
        """
        height, width = hidden.shape[-2:]
        states = self.proj_in(self.norm(hidden)).flatten(2).transpose(1, 2)
        collected = []
        for index, block in enumerate(self.blocks):
            reference = references[index] if references is not None else None
            is_last = index == len(self.blocks) - 1
            states, tokens = block(states, context, reference, keep, tokens_only and is_last)
            collected.append(tokens)
        if tokens_only:
            return hidden, tuple(collected)
        image = states.transpose(1, 2).unflatten(2, (height, width)).contiguous()
        return hidden + self.proj_out(image), tuple(collected)


def reference_attention(
    attention: Attention, tokens: Tensor, reference: KeyValue | None, keep: Tensor | None
) -> Tensor:
    """Self-attention of `tokens` [B*T, L, C] that also reads the `reference` [B, L, D] of their clip.

    Where `keep` [B] is False, the sample's own keys and values take the reference's place. Every key is
    then there twice, which leaves the softmax-weighted mean as it is: plain self-attention, without a mask
    (fused kernels stay usable) and without a second graph.

    Raises ``ValueError`` when the reference has another number of tokens than the frames.
    """
    query, key, value = attention.to_q(tokens), attention.to_k(tokens), attention.to_v(tokens)
    if reference is not None:
        key = _append_reference(key, reference[0], keep)
        value = _append_reference(value, reference[1], keep)
    query, key, value = (
        states.unflatten(2, (attention.heads, -1)).transpose(1, 2) for states in (query, key, value)
    )
    attended = scaled_dot_product_attention(query, key, value)
    return _project_out(attention, attended.transpose(1, 2).flatten(2))


def _append_reference(own: Tensor, reference: Tensor, keep: Tensor | None) -> Tensor:
    """Append to [B*T, L, D] the reference [B, L, D] of each clip, or `own` again: [B*T, 2L, D]."""
    if reference.shape[1] != own.shape[1]:
        raise ValueError(
            f"the reference has {reference.shape[1]} tokens where a frame has {own.shape[1]}: "
            "give the reference image the height and width of the frames"
        )
    own_by_clip = own.unflatten(0, (reference.shape[0], -1))
    appended = reference[:, None].expand_as(own_by_clip)
    if keep is not None:
        appended = torch.where(keep[:, None, None, None], appended, own_by_clip)
    return torch.cat([own_by_clip, appended], dim=2).flatten(0, 1)


def _project_out(attention: Attention, states: Tensor) -> Tensor:
    linear, dropout = attention.to_out
    return dropout(linear(states))
