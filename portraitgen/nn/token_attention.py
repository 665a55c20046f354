"""Cross attention of the pixels of a frame to tokens of that frame, such as those of its sound."""

from typing import cast

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


class TokenAttention(nn.Module):
    """Layer norm of the pixels, cross attention to the frame's tokens, residual.

    The output projection starts at zero: a fresh module is the identity.

    Args:
        channels: of the feature map, divisible by `num_attention_heads`.
        token_dim: width of the tokens.

    Raises:
        ValueError: the heads do not divide the channels.
    """

    def __init__(self, channels: int, *, token_dim: int, num_attention_heads: int = 8) -> None:
        super().__init__()
        if channels % num_attention_heads:
            raise ValueError(
                f"num_attention_heads={num_attention_heads} of the attention to tokens does not divide the "
                f"{channels} channels of a U-Net level: choose a divisor of every entry of block_out_channels"
            )
        self.norm = nn.LayerNorm(channels)
        self.attention = Attention(
            channels,
            cross_attention_dim=token_dim,
            heads=num_attention_heads,
            dim_head=channels // num_attention_heads,
        )
        output = cast(nn.Linear, self.attention.to_out[0])
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Feature maps [N, C, H, W] of frames with tokens [N, L, D], to the same shape."""
        height, width = hidden.shape[-2:]
        pixels = hidden.flatten(2).transpose(1, 2)
        read: Tensor = self.attention(self.norm(pixels), encoder_hidden_states=tokens)
        return hidden + read.transpose(1, 2).unflatten(2, (height, width))
