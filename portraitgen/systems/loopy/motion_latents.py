"""Audio-to-latents: strong conditions, of which sound is one, mapped to one space of motion latents.

Loopy, section 3.4: in training one of four conditions is read, each equally often, so that what the strong
ones (landmarks, how much head and face move) teach of motion is there for sound, which alone is read in use.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

CONDITIONS = ("audio", "landmarks", "movement", "expression")
Heard = Literal["mean", "all"]


class MotionLatents(nn.Module):
    """One linear layer a condition makes queries; learnable embeddings are keys and values of an attention;
    a linear layer, which starts at zero, brings what it reads to the width of the embedding of the time.

    Args:
        token_dim, num_tokens: width and number of a frame's tokens of sound.
        num_landmarks: points of a face.
        time_dim: width of the embedding of the time.
        num_embeddings, dim, heads: of the attention.
        per_frame: a latent for each frame; else one for the clip, the mean of its queries.
        audio: what the linear layer of the sound reads: the "mean" of a frame's tokens, or "all" of them one
            behind the other.

    Raises:
        ValueError: `heads` does not divide `dim`, or another `audio`.
    """

    def __init__(
        self,
        *,
        token_dim: int,
        num_tokens: int,
        num_landmarks: int,
        time_dim: int,
        num_embeddings: int = 64,
        dim: int = 768,
        heads: int = 8,
        per_frame: bool = True,
        audio: Heard = "mean",
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"network.motion_latents: heads={heads} does not divide dim={dim}")
        if audio not in get_args(Heard):
            raise ValueError(f"network.motion_latents.audio={audio!r}: choose mean or all")
        self.heads, self.per_frame, self.num_landmarks, self.audio = heads, per_frame, num_landmarks, audio
        heard = token_dim if audio == "mean" else num_tokens * token_dim
        widths = {"audio": heard, "landmarks": 2 * num_landmarks, "movement": 1, "expression": 1}
        self.queries = nn.ModuleDict({name: nn.Linear(widths[name], dim) for name in CONDITIONS})
        self.embeddings = nn.Parameter(torch.randn(num_embeddings, dim))
        self.to_k, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_time = nn.Linear(dim, time_dim)
        nn.init.zeros_(self.to_time.weight)
        nn.init.zeros_(self.to_time.bias)

    def forward(self, conditions: Mapping[str, Tensor], choice: Tensor | None = None) -> Tensor:
        """Motion latents [B, T, time_dim].

        Args:
            conditions: by name, audio [B, T, N, D], the tokens of each frame, and where there is a choice
                landmarks [B, T, 2K], movement [B, 1], expression [B, 1].
            choice: int64 [B], which of `CONDITIONS` each sample goes by; None: all by sound.
        """
        tokens = conditions["audio"]
        query = self.queries["audio"](tokens.mean(dim=2) if self.audio == "mean" else tokens.flatten(2))
        if choice is not None:
            # All are computed: which parameters get a gradient must not depend on what was drawn.
            for number, name in enumerate(CONDITIONS[1:], start=1):
                condition = conditions[name]
                other = self.queries[name](condition if condition.ndim == 3 else condition[:, None])
                query = torch.where((choice == number)[:, None, None], other.expand_as(query), query)
        if not self.per_frame:
            query = query.mean(dim=1, keepdim=True)
        clips = len(query)
        keys, values = self.to_k(self.embeddings), self.to_v(self.embeddings)
        query, key, value = (
            self._split(each.expand(clips, -1, -1)) for each in (query, keys[None], values[None])
        )
        latents = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.to_time(latents).expand(-1, tokens.shape[1], -1)

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)
