"""A few learned queries that read many tokens (arXiv:2103.03206; the block is Flamingo's resampler).

UniPortrait reads a face's features into ID tokens with it, ConsisID into its local facial tokens; ConsisID's
cross attention from video tokens to a face is the same block without the queries' own keys. Names of the
parameters are those of both papers' checkpoints.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class PerceiverAttention(nn.Module):
    """Attention of latents to a context and, unless `reads_latents` is off, to themselves; no residual.

    Args:
        dim: of the latents.
        heads, head_dim: of the attention.
        context_dim: of the context; None: `dim`.
        reads_latents: the latents' own keys and values stand behind those of the context. Both then have one
            width.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        head_dim: int = 64,
        context_dim: int | None = None,
        reads_latents: bool = True,
    ) -> None:
        super().__init__()
        context_dim = dim if context_dim is None else context_dim
        assert not reads_latents or context_dim == dim, "one projection makes the keys of both"
        inner = heads * head_dim
        self.heads = heads
        self.reads_latents = reads_latents
        self.norm1 = nn.LayerNorm(context_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(context_dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, context: Tensor, latents: Tensor, keep: Tensor | None = None) -> Tensor:
        """[B, L, dim] for latents [B, L, dim] that read `context` [B, n, context_dim].

        Args:
            keep: bool [B, n]; tokens of the context where it is False are not seen. The latents always see
                themselves, so with `reads_latents` a whole context may be masked: that is not the same as
                leaving the block out.
        """
        context, latents = self.norm1(context), self.norm2(latents)
        read = torch.cat([context, latents], dim=1) if self.reads_latents else context
        query = self._split(self.to_q(latents))
        key, value = (self._split(part) for part in self.to_kv(read).chunk(2, dim=-1))
        mask = None
        if keep is not None:
            own = keep.new_ones(len(keep), read.shape[1] - keep.shape[1])
            mask = torch.cat([keep, own], dim=1)[:, None, None]
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.to_out(attended.transpose(1, 2).flatten(2))

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def perceiver_feed_forward(dim: int, *, factor: int = 4) -> nn.Sequential:
    """Norm, linear, GELU, linear, without biases; no residual."""
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, factor * dim, bias=False),
        nn.GELU(),
        nn.Linear(factor * dim, dim, bias=False),
    )
