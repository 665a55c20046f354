"""The Q-Former that reads the features of a person's face into ID tokens (arXiv:2408.05939, section 3.2)."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from portraitgen.nn.perceiver import PerceiverAttention, perceiver_feed_forward


class IdResampler(nn.Module):
    """Learned queries read, in each layer, the intrinsic features and then the structural ones.

    The intrinsic features say who it is; the structural ones add what a photo shows beside that, and are what
    makes results copy it. So the structural branch has a scale, and is dropped often while training.

    Args:
        intrinsic_dim, structure_dim: of the features, see `features.FaceFeatures`.
        dim: inside.
        output_dim: of the ID tokens: the text embeddings' width.
        num_tokens: of a person.
        depth, heads, head_dim, ff_factor: of the layers.
    """

    def __init__(
        self,
        *,
        intrinsic_dim: int = 512,
        structure_dim: int = 1728,
        dim: int = 768,
        output_dim: int = 768,
        num_tokens: int = 16,
        depth: int = 6,
        heads: int = 12,
        head_dim: int = 64,
        ff_factor: int = 4,
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.intrinsic_dim, self.structure_dim = intrinsic_dim, structure_dim
        self.latents = nn.Parameter(torch.randn(1, num_tokens, dim) / dim**0.5)
        self.proj_id = _projection(intrinsic_dim, dim)
        self.proj_clip = _projection(structure_dim, dim)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(dim, heads=heads, head_dim=head_dim),
                    PerceiverAttention(dim, heads=heads, head_dim=head_dim),
                    perceiver_feed_forward(dim, factor=ff_factor),
                ]
            )
            for _ in range(depth)
        )
        self.proj_out = nn.Linear(dim, output_dim)
        self.norm_out = nn.LayerNorm(output_dim)

    def forward(
        self,
        intrinsic: Tensor,
        structure: Tensor,
        *,
        structure_scale: float | Tensor = 1.0,
        intrinsic_keep: Tensor | None = None,
        structure_keep: Tensor | None = None,
    ) -> Tensor:
        """ID tokens [B, num_tokens, output_dim]; they do not depend on the order of the features.

        Args:
            intrinsic: [B, n, intrinsic_dim], of one or several photos.
            structure: [B, m, structure_dim], likewise.
            structure_scale: of the structural branch, one or [B, 1, 1]; 0 is a model without the branch.
            intrinsic_keep, structure_keep: bool [B, n] and [B, m]: tokens that are seen. To mask all of
                `structure` does not drop the branch: its queries still read themselves.
        """
        latents = self.latents.expand(len(intrinsic), -1, -1)
        who, what = self.proj_id(intrinsic), self.proj_clip(structure)
        for read_who, read_what, feed_forward in self._blocks():
            latents = latents + read_who(who, latents, intrinsic_keep)
            latents = latents + structure_scale * read_what(what, latents, structure_keep)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))

    def _blocks(self) -> Iterator[nn.ModuleList]:
        return iter(cast(list[nn.ModuleList], list(self.layers)))


def _projection(features: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 2 * features), nn.GELU(), nn.Linear(2 * features, dim))
