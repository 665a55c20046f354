"""Attention over the frames of a clip at every pixel: AnimateDiff's motion module as AniPortrait uses it."""

from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn


class TemporalTransformer(nn.Module):
    """Group norm, linear in, one block of two self-attentions over the frames, linear out, residual.

    Keys are those of diffusers' ``AnimateDiffTransformer3D``, with two differences: the group norm takes its
    statistics per frame, as AnimateDiff and AniPortrait do (diffusers: over all frames), and `proj_out`
    starts at zero, so that a fresh module is the identity and stage 2 starts as stage 1.

    Args:
        channels: channels of the feature map, divisible by `num_attention_heads` and `norm_num_groups`.
        max_frames: length of the table of sinusoidal positions, so the longest clip.

    Raises:
        ValueError: the heads do not divide the channels.
    """

    def __init__(
        self, channels: int, *, num_attention_heads: int = 8, max_frames: int = 32, norm_num_groups: int = 32
    ) -> None:
        super().__init__()
        if channels % num_attention_heads:
            raise ValueError(
                f"motion_num_attention_heads={num_attention_heads} does not divide the {channels} channels "
                "of a U-Net level: choose a divisor of every entry of block_out_channels"
            )
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
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, hidden: Tensor, num_frames: int) -> Tensor:
        """Mix the T = `num_frames` frames of each clip: [B*T, C, H, W] to the same shape.

        Raises ``ValueError`` when T is larger than `max_frames`.
        """
        if num_frames > self.max_frames:
            raise ValueError(
                f"a clip of {num_frames} frames is longer than the limit of {self.max_frames} of the motion "
                "modules (motion_max_seq_length): use shorter clips or windows, or train with a larger limit"
            )
        height, width = hidden.shape[-2:]
        frames = self.norm(hidden).unflatten(0, (-1, num_frames))
        # Contiguous, or the projection of a single clip becomes one small product a pixel.
        tokens = self.proj_in(frames.permute(0, 3, 4, 1, 2).contiguous().flatten(0, 2))
        for block in self.transformer_blocks:
            tokens = block(tokens)
        tokens = self.proj_out(tokens).unflatten(0, (-1, height, width))
        return hidden + tokens.permute(0, 3, 4, 1, 2).flatten(0, 1)
