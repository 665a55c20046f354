"""What ConsisID adds to a video transformer for who somebody is: face tokens, and attention to them.

Both hosts use these modules. Parameters have the names of the published weights.
"""

from collections.abc import Callable
from typing import Any, cast

from diffusers.models.transformers.consisid_transformer_3d import LocalFacialExtractor
from torch import Tensor, is_grad_enabled

from portraitgen.nn.perceiver import PerceiverAttention


class FaceTokens(LocalFacialExtractor):
    """The local facial extractor: an embedding and the inner layers of CLIP → tokens [B, n, D] of one face.

    diffusers' module with two things more: it recomputes its activations for the gradient where gradient
    checkpointing is on, and lets tokens pass that were made before, so that sampling makes them once.
    """

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any]

    def forward(self, embedding: Tensor, hidden: list[Tensor]) -> Tensor:
        """Tokens [B, n, D].

        Args:
            embedding: [B, E]; or tokens, which pass, where `hidden` is empty.
            hidden: one [B, N, C] a scale, early layers first.
        """
        if not hidden:
            return embedding
        if self.gradient_checkpointing and is_grad_enabled():
            return cast(Tensor, self._gradient_checkpointing_func(super().forward, embedding, hidden))
        return super().forward(embedding, hidden)


class FaceAttention(PerceiverAttention):
    """Attention of a video's tokens to those of a face, without residual (PerceiverCrossAttention).

    Args:
        dim: of the video's tokens.
        heads, head_dim: of the attention.
        face_dim: of the face's tokens.
    """

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any]

    def __init__(self, dim: int, *, heads: int, head_dim: int, face_dim: int) -> None:
        super().__init__(dim, heads=heads, head_dim=head_dim, context_dim=face_dim, reads_latents=False)

    def forward(self, context: Tensor, latents: Tensor, keep: Tensor | None = None) -> Tensor:
        """See `PerceiverAttention`: `latents` are the video's tokens, `context` those of the face."""
        if self.gradient_checkpointing and is_grad_enabled():
            return cast(Tensor, self._gradient_checkpointing_func(super().forward, context, latents, keep))
        return super().forward(context, latents, keep)
