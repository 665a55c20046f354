"""Attention over the frames of a clip at every pixel: AnimateDiff's motion module, and what came before."""

from typing import Any, Literal, cast, get_args

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

Positions = Literal["sinusoidal", "learned", "learned_from_noise"]


class LearnedPositions(nn.Module):
    """A learnable vector for each place in time, added to tokens [N, L, C].

    Args:
        start: the table [1, L, C] that it starts from.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.pe = nn.Parameter(start.clone())  # as diffusers calls its table of sinusoids

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.pe[:, : tokens.shape[1]]


class TemporalTransformer(nn.Module):
    """Group norm, linear in, one block of two self-attentions over the frames, linear out, residual.

    Keys are those of diffusers' ``AnimateDiffTransformer3D``, with two differences: the group norm takes its
    statistics per frame, as AnimateDiff and AniPortrait do (diffusers: over all frames), and `proj_out`
    starts at zero, so that a fresh module is the identity and stage 2 starts as stage 1.

    Frames that came before the clip can be read too (Loopy's inter-clip layer): they take part in the
    attention as the first of its frames, and only the clip's own come out.

    Args:
        channels: channels of the feature map, divisible by `num_attention_heads` and `norm_num_groups`.
        max_frames: length of the table of positions, so the longest clip, earlier frames included.
        positions: "sinusoidal", a fixed table; "learned", a learnable one that starts as this; or
            "learned_from_noise", one that starts as normal noise of standard deviation 0.02.

    Raises:
        ValueError: the heads do not divide the channels, or unknown positions.
    """

    gathered_for = ("project",)
    """As in `ReferenceTransformerBlock`."""

    def __init__(
        self,
        channels: int,
        *,
        num_attention_heads: int = 8,
        max_frames: int = 32,
        norm_num_groups: int = 32,
        positions: Positions = "sinusoidal",
    ) -> None:
        super().__init__()
        if channels % num_attention_heads:
            raise ValueError(
                f"motion_num_attention_heads={num_attention_heads} does not divide the {channels} channels "
                "of a U-Net level: choose a divisor of every entry of block_out_channels"
            )
        if positions not in get_args(Positions):
            raise ValueError(f"positions={positions!r}: choose one of {', '.join(get_args(Positions))}")
        self.max_frames = max_frames
        self.norm = nn.GroupNorm(norm_num_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        block = BasicTransformerBlock(
            channels,
            num_attention_heads,
            channels // num_attention_heads,
            double_self_attention=True,
            positional_embeddings="sinusoidal",
            num_positional_embeddings=max_frames,
        )
        if positions != "sinusoidal":
            table = cast(Any, block.pos_embed).pe
            start = table if positions == "learned" else 0.02 * torch.randn(table.shape)
            block.pos_embed = cast(Any, LearnedPositions(start))
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def project(self, maps: Tensor, num_frames: int) -> Tensor:
        """Tokens [B*H*W, T, C] of the T = `num_frames` frames of each of B clips, [B*T, C, H, W].

        Those of frames before a clip, for `forward`; they do not depend on the clip.
        """
        return self._tokens(maps, num_frames)

    def _tokens(self, maps: Tensor, num_frames: int) -> Tensor:
        frames = self.norm(maps).unflatten(0, (-1, num_frames))
        # Contiguous, or the projection of a single clip becomes one small product a pixel.
        tokens: Tensor = self.proj_in(frames.permute(0, 3, 4, 1, 2).contiguous().flatten(0, 2))
        return tokens

    def forward(
        self,
        hidden: Tensor,
        num_frames: int,
        *,
        before: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Mix the T = `num_frames` frames of each clip: [B*T, C, H, W] to the same shape.

        Args:
            before: tokens [B*H*W, M, C] of the M frames before each clip, oldest first: see `project`.
            visible: [B, M] bool, those of them that are read; None: all.

        Raises:
            ValueError: M + T is larger than `max_frames`.
        """
        earlier = 0 if before is None else before.shape[1]
        if earlier + num_frames > self.max_frames:
            whole = f"{earlier} earlier frames and {num_frames}" if earlier else f"{num_frames}"
            raise ValueError(
                f"a clip of {whole} frames is longer than the limit of {self.max_frames} of the motion "
                "modules (motion_max_seq_length): use shorter clips or windows, or train with a larger limit"
            )
        height, width = hidden.shape[-2:]
        tokens = self._tokens(hidden, num_frames)
        if before is None:
            for block in self.transformer_blocks:
                tokens = block(tokens)
        else:
            (block,) = self.transformer_blocks
            mask = None if visible is None else _key_mask(visible, num_frames, pixels=height * width)
            tokens = _continue(block, torch.cat([before, tokens], dim=1), earlier, mask)
        tokens = self.proj_out(tokens).unflatten(0, (-1, height, width))
        return hidden + tokens.permute(0, 3, 4, 1, 2).flatten(0, 1)


def _continue(block: Any, tokens: Tensor, earlier: int, mask: Tensor | None) -> Tensor:
    """What `block` gives of the tokens behind the first `earlier`; those take part, but do not come out."""
    states = block.pos_embed(block.norm1(tokens))
    tokens = tokens + block.attn1(states, attention_mask=mask)
    states = block.pos_embed(block.norm2(tokens))
    own = tokens[:, earlier:] + block.attn2(
        states[:, earlier:], encoder_hidden_states=states, attention_mask=mask
    )
    result: Tensor = own + block.ff(block.norm3(own))
    return result


def _key_mask(visible: Tensor, num_frames: int, *, pixels: int) -> Tensor:
    """bool [B*pixels, 1, M + T]: the keys that are read; a clip's own always are."""
    own = visible.new_ones(len(visible), num_frames)
    return torch.cat([visible, own], dim=1).repeat_interleave(pixels, dim=0)[:, None]
