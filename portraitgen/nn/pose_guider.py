"""PoseGuider: turns drawn landmarks into feature maps that are added to the denoising U-Net (AniPortrait)."""

import math
from collections.abc import Sequence
from typing import Literal, Self

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from portraitgen.nn.checkpointing import run

PoseNorm = Literal["batch", "group"]


DRAWING_FACTOR = 8
"""A drawing has this many times the sides of the latent grid: three convolutions of stride 2."""


class PoseGuider(nn.Module):
    """Convolutions down to the latent grid (1/8), then convolutions and self-attention for each U-Net level.

    Parameter names are upstream's. Upstream also takes the drawing of the reference pose, but its
    transformers have no cross attention: the drawing moves the running statistics and never reaches the
    output, so it is not an input here.

    The stem's projection starts at zero: a fresh guider gives zero maps at the first level. As long as none
    of its parameters is trained the module stays in evaluation mode, so that a frozen guider's running
    statistics do not move.

    Args:
        block_out_channels: channels (c0, ..., c[n-1]) of the denoising U-Net's levels. The n + 1 maps have
            channels (c0, c0, c1, ..., c[n-1]) at 1, 1/2, 1/4, ... of the latent grid, the last two equally
            large.
        base_channels: width of the first strided convolution; the stem widens from it to eightfold.
        num_attention_heads: heads of the transformers.
        attention_head_dim: channels of a head.
        norm: "batch" as upstream, or "group", which treats each drawing alone and alike in training and
            evaluation.
        norm_num_groups: groups of the transformers' group norms, and of "group", there as far as they
            divide the channels.

    Raises:
        ValueError: unknown `norm`.
    """

    def __init__(
        self,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        *,
        base_channels: int = 16,
        num_attention_heads: int = 16,
        attention_head_dim: int = 88,
        norm: PoseNorm = "batch",
        norm_num_groups: int = 32,
    ) -> None:
        super().__init__()
        if norm not in ("batch", "group"):
            raise ValueError(f"pose_guider.norm={norm!r}: choose 'batch' (upstream) or 'group'")

        def convolution(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
            convolve = nn.Conv2d(inputs, outputs, kernel, stride, padding=1)
            nn.init.kaiming_normal_(convolve.weight, nonlinearity="relu")
            groups = math.gcd(norm_num_groups, outputs)
            normalise = nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(groups, outputs)
            return [convolve, normalise, nn.ReLU()]

        stem = convolution(3, 3)
        width = 3
        for wider in (base_channels, 2 * base_channels, 4 * base_channels):
            stem += convolution(width, wider, kernel=4, stride=2) + convolution(wider, wider)
            width = wider
        stem += convolution(width, 2 * width)
        self.scale = nn.Parameter(torch.full((1,), 2.0))
        self.conv_layers = nn.Sequential(*stem)
        self.final_proj = nn.Conv2d(2 * width, block_out_channels[0], kernel_size=1)
        for parameter in self.final_proj.parameters():
            nn.init.zeros_(parameter)

        self.num_levels = len(block_out_channels)
        width = block_out_channels[0]
        for level, wider in enumerate(block_out_channels, start=1):
            if level < self.num_levels:
                layers = convolution(width, width) + convolution(width, wider, stride=2)
            else:
                layers = convolution(width, wider)
            transformer = Transformer2DModel(
                num_attention_heads, attention_head_dim, in_channels=wider, norm_num_groups=norm_num_groups
            )
            self.add_module(f"conv_layers_{level}", nn.Sequential(*layers))
            self.add_module(f"cross_attn{level}", transformer)
            width = wider
        self.gradient_checkpointing = False

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and any(each.requires_grad for each in self.parameters()))

    @torch.no_grad()
    def measure(self, drawing: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Maps of the drawings, their batch norms' statistics taken of these drawings alone.

        So upstream draws its maps always, since it leaves the guider in training mode. Also returns the
        statistics, by the names of the buffers, for `torch.func.functional_call`; the running ones stay as
        they are. Without batch norms there are none. Needs evaluation mode.
        """
        assert not self.training
        measured: dict[str, Tensor] = {}
        restore: list[tuple[nn.BatchNorm2d, Tensor | None, Tensor | None]] = []
        hooks = []
        for name, norm in self.named_modules():
            if isinstance(norm, nn.BatchNorm2d):
                restore.append((norm, norm.running_mean, norm.running_var))

                def take(norm: nn.BatchNorm2d, inputs: tuple[Tensor], name: str = name) -> None:
                    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
                    norm.running_mean, norm.running_var = mean, variance
                    measured.update({f"{name}.running_mean": mean, f"{name}.running_var": variance})

                hooks.append(norm.register_forward_pre_hook(take))
        try:
            return self(drawing), measured
        finally:
            for hook in hooks:
                hook.remove()
            for norm, mean, variance in restore:
                norm.running_mean, norm.running_var = mean, variance

    def forward(self, drawing: Tensor) -> tuple[Tensor, ...]:
        """Maps [N, c, h', w'] of drawings [N, 3, H, W] in [-1, 1]; H and W are multiples of 8."""
        # torch's batch norm in training mode loses two digits on a permuted tensor (CPU), hence contiguous.
        hidden = self.final_proj(self.conv_layers(drawing.contiguous())) * self.scale
        maps = [hidden]
        for level in range(1, self.num_levels + 1):
            convolutions = self.get_submodule(f"conv_layers_{level}")
            transformer = self.get_submodule(f"cross_attn{level}")
            hidden = run(
                transformer, convolutions(hidden), return_dict=False, recompute=self.gradient_checkpointing
            )[0]
            maps.append(hidden)
        return tuple(maps)
