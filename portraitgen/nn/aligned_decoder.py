"""A causal transformer whose position t hears element t of a memory, and that can be run step by step.

The decoder of FaceFormer (Fan et al., CVPR 2022) and of AniPortrait's Audio2Pose, with attention that fades
with distance (ALiBi, Press et al., ICLR 2022).
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeyValues = tuple[Tensor, Tensor]
"""Keys and values [B, heads, positions, channels] of the positions that one layer has seen."""


def alibi(num_heads: int, num_queries: int, num_keys: int, *, device: torch.device | None = None) -> Tensor:
    """What is added to attention logits [heads, Q, K], for queries that are the last Q of the K positions.

    Minus the distance times a slope of the head, 2^(-8/n), 2^(-16/n), …; -inf for what lies ahead.
    """
    slopes = 2.0 ** (-8.0 / num_heads * torch.arange(1, num_heads + 1, device=device))
    positions = torch.arange(num_keys, device=device)
    distance = (positions[num_keys - num_queries :, None] - positions).float()
    return (-slopes[:, None, None] * distance).masked_fill(distance < 0, float("-inf"))


class AlignedDecoderLayer(nn.Module):
    """Causal self-attention, a reading of the memory, feed-forward; each added and then normalised.

    Equal to ``nn.TransformerDecoderLayer``, names included, with an ALiBi mask and a memory mask that leaves
    one key a query: its softmax is 1, so the attention is a projection of that key's value. Queries and keys
    of the memory are held for published weights only; their gradient is zero.

    Args:
        width: channels D.
        num_heads: heads of the attentions, a power of two that divides D.
        dropout: share dropped of attention weights and of each part's output.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.linear1 = nn.Linear(width, 2 * width)
        self.linear2 = nn.Linear(2 * width, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def read(self, memory: Tensor) -> Tensor:
        """What positions take from their elements of the memory: [B, T, D] to the same shape."""
        attention = self.multihead_attn
        weight, bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
        return attention.out_proj(F.linear(memory, weight, bias))

    def forward(self, hidden: Tensor, reading: Tensor, past: KeyValues | None) -> tuple[Tensor, KeyValues]:
        """Output [B, T, D] for `hidden` and `reading` [B, T, D], and the `past` of the next positions."""
        attended, past = self._attend(hidden, past)
        hidden = self.norm1(hidden + self.dropout(attended))
        hidden = self.norm2(hidden + self.dropout(reading))
        wide = self.dropout(F.relu(self.linear1(hidden)))
        return self.norm3(hidden + self.dropout(self.linear2(wide))), past

    def _attend(self, hidden: Tensor, past: KeyValues | None) -> tuple[Tensor, KeyValues]:
        attention = self.self_attn
        projected = F.linear(hidden, attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = (
            part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, -1)
        )
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        bias = alibi(attention.num_heads, query.shape[2], key.shape[2], device=hidden.device).to(query.dtype)
        drop = self.dropout.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=drop)
        return attention.out_proj(attended.transpose(1, 2).flatten(2)), (key, value)


class AlignedDecoder(nn.Module):
    """Layers of `AlignedDecoderLayer`, run over a whole sequence or piece by piece with the same result.

    Raises:
        ValueError: `num_heads` is not a power of two, or does not divide `width`.
    """

    def __init__(self, width: int, *, num_layers: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if num_heads & (num_heads - 1) or width % num_heads:
            raise ValueError(f"num_heads={num_heads} must be a power of two that divides the width {width}")
        self.layers = nn.ModuleList(AlignedDecoderLayer(width, num_heads, dropout) for _ in range(num_layers))

    def read(self, memory: Tensor) -> list[Tensor]:
        """What each layer's positions take from a memory [B, T, D]: computed once, then passed in pieces."""
        return [layer.read(memory) for layer in cast(Iterable[AlignedDecoderLayer], self.layers)]

    def forward(
        self, hidden: Tensor, readings: Sequence[Tensor], past: Sequence[KeyValues] | None = None
    ) -> tuple[Tensor, list[KeyValues]]:
        """Run T positions that follow those of `past`.

        Args:
            hidden: float [B, T, D].
            readings: of each layer [B, T, D], see `read`.
            past: of each layer, as returned for the positions before; None at the beginning.

        Returns:
            float [B, T, D], and the `past` of the positions that follow.
        """
        seen: list[KeyValues] = []
        for index, (layer, reading) in enumerate(zip(self.layers, readings, strict=True)):
            hidden, key_values = layer(hidden, reading, past[index] if past else None)
            seen.append(key_values)
        return hidden, seen
