"""The body of Stable Diffusion's U-Net, with places for reference attention, pose maps and motion modules.

It is built from the modules of diffusers' ``UNet2DConditionModel`` under the same names, so checkpoints
keep their keys. Only the order of the calls is written here, because diffusers' forward has no place for
pose maps and reference features: one explicit walk serves the image, the video and the reference network.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, cast

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from portraitgen.nn.checkpointing import run
from portraitgen.nn.options import reject_unknown
from portraitgen.nn.reference_attention import SpatialTransformer
from portraitgen.nn.temporal import TemporalTransformer

# How hidden states pass a spatial transformer. The caller of the walk decides: the walk knows no reference.
Attend = Callable[[SpatialTransformer, Tensor], Tensor]
Step = tuple[nn.Module, SpatialTransformer | None, TemporalTransformer | None]


class UNetLevel(nn.Module):
    """The modules of one resolution, taken over from a diffusers block. `UNetTrunk` walks them."""

    def __init__(self, block: Any, motion_modules: list[TemporalTransformer]) -> None:
        super().__init__()
        self.resnets: nn.ModuleList = block.resnets
        self.attentions = nn.ModuleList(map(SpatialTransformer, getattr(block, "attentions", ())))
        self.motion_modules = nn.ModuleList(motion_modules)
        self.downsamplers: nn.ModuleList = getattr(block, "downsamplers", None) or nn.ModuleList()
        self.upsamplers: nn.ModuleList = getattr(block, "upsamplers", None) or nn.ModuleList()

    @property
    def spatial_transformers(self) -> list[SpatialTransformer]:
        """The spatial transformers in running order."""
        return cast(list[SpatialTransformer], list(self.attentions))

    def steps(self, *, first: int = 0) -> Iterable[Step]:
        """The steps of the level in running order, with the resnets from number `first` on."""
        return zip_longest(self.resnets[first:], self.spatial_transformers, cast(Any, self.motion_modules))


class UNetTrunk(nn.Module):
    """From `conv_in` to the last up block.

    Args:
        source: the U-Net whose modules are taken over; do not use it afterwards.
        motion: None (images), or the motion modules' options, named as in diffusers' ``UNetMotionModel``:
            `motion_num_attention_heads` (8), `motion_max_seq_length` (32), `use_motion_mid_block` (True).

    Raises:
        ValueError: unknown motion option (named), or heads that do not divide the channels.
    """

    def __init__(self, source: UNet2DConditionModel, motion: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        motion_behind = _motion_maker(motion, source.config["norm_num_groups"])
        blocks: Any = source  # nn.Module does not know the types of its submodules
        has_middle_motion = motion is not None and motion.get("use_motion_mid_block", True)
        middle_steps = blocks.mid_block.resnets[1:] if has_middle_motion else ()
        self.block_out_channels: tuple[int, ...] = tuple(source.config["block_out_channels"])
        self.context_dim: int = source.config["cross_attention_dim"]
        self.conv_in = source.conv_in
        self.time_proj = source.time_proj
        self.time_embedding = source.time_embedding
        self.down_blocks = nn.ModuleList(
            UNetLevel(block, motion_behind(block.resnets)) for block in blocks.down_blocks
        )
        self.mid_block = UNetLevel(blocks.mid_block, motion_behind(middle_steps))
        self.up_blocks = nn.ModuleList(
            UNetLevel(block, motion_behind(block.resnets)) for block in blocks.up_blocks
        )
        self.gradient_checkpointing = False

    @property
    def down_levels(self) -> list[UNetLevel]:
        """Levels from the largest resolution to the smallest."""
        return cast(list[UNetLevel], list(self.down_blocks))

    @property
    def up_levels(self) -> list[UNetLevel]:
        """Levels from the smallest resolution to the largest."""
        return cast(list[UNetLevel], list(self.up_blocks))

    @property
    def spatial_transformers(self) -> list[SpatialTransformer]:
        """All spatial transformers in running order."""
        levels = (*self.down_levels, self.mid_block, *self.up_levels)
        return [transformer for level in levels for transformer in level.spatial_transformers]

    @property
    def attention_widths(self) -> list[int]:
        """Channels of every spatial self-attention in running order."""
        return [block.attn1.query_dim for each in self.spatial_transformers for block in each.blocks]

    def walk(
        self,
        sample: Tensor,
        time: Tensor,
        attend: Attend,
        *,
        pose: Sequence[Tensor] = (),
        num_frames: int = 1,
    ) -> Tensor:
        """Hidden states [B*T, c0, H, W] behind the last up block.

        Args:
            sample: [B*T, C, H, W], T = `num_frames`.
            time: [B].
            attend: called with each spatial transformer and the hidden states, returns the new hidden states.
            pose: no map, or one more than levels, [B*T, c, h, w]. The first joins behind `conv_in`, and so
                enters the first skip; the others join behind the down blocks, after the skips were taken.
            num_frames: frames of a clip.
        """
        embedding = self.time_embedding(self.time_proj(time).to(sample.dtype))
        embedding = embedding.repeat_interleave(num_frames, dim=0)

        def mix(
            hidden: Tensor, spatial: SpatialTransformer | None, temporal: TemporalTransformer | None
        ) -> Tensor:
            if spatial is not None:
                hidden = attend(spatial, hidden)
            return hidden if temporal is None else self._run(temporal, hidden, num_frames)

        hidden = self.conv_in(sample)
        if pose:
            hidden = _add_map(hidden, pose[0])
        skips = [hidden]
        for depth, level in enumerate(self.down_levels, start=1):
            for resnet, spatial, temporal in level.steps():
                hidden = mix(self._run(resnet, hidden, embedding), spatial, temporal)
                skips.append(hidden)
            for downsample in level.downsamplers:
                hidden = downsample(hidden)
                skips.append(hidden)
            if pose:
                hidden = _add_map(hidden, pose[depth])

        hidden = self._run(self.mid_block.resnets[0], hidden, embedding)
        for resnet, spatial, temporal in self.mid_block.steps(first=1):
            hidden = self._run(resnet, mix(hidden, spatial, temporal), embedding)

        for level in self.up_levels:
            for resnet, spatial, temporal in level.steps():
                hidden = torch.cat([hidden, skips.pop()], dim=1)
                hidden = mix(self._run(resnet, hidden, embedding), spatial, temporal)
            for upsample in level.upsamplers:
                # To the skip's size rather than twice the own: odd sizes come back as they were.
                hidden = upsample(hidden, output_size=skips[-1].shape[-2:])
        return hidden

    def _run(self, module: nn.Module, *args: Any) -> Any:
        return run(module, *args, recompute=self.gradient_checkpointing)


def _motion_maker(
    options: Mapping[str, Any] | None, norm_num_groups: int
) -> Callable[[Iterable[Any]], list[TemporalTransformer]]:
    """A function that makes the motion modules which follow given resnets (none without options)."""
    accepted = ("motion_num_attention_heads", "motion_max_seq_length", "use_motion_mid_block")
    reject_unknown("motion", options or {}, accepted)

    def motion_behind(resnets: Iterable[Any]) -> list[TemporalTransformer]:
        if options is None:
            return []
        return [
            TemporalTransformer(
                resnet.out_channels,
                num_attention_heads=options.get("motion_num_attention_heads", 8),
                max_frames=options.get("motion_max_seq_length", 32),
                norm_num_groups=norm_num_groups,
            )
            for resnet in resnets
        ]

    return motion_behind


def _add_map(hidden: Tensor, pose_map: Tensor) -> Tensor:
    if hidden.shape != pose_map.shape:
        raise ValueError(
            f"pose map of shape {tuple(pose_map.shape)} where the U-Net has {tuple(hidden.shape)}: "
            "the drawing must be 8 times the latent grid, with one drawing for each frame"
        )
    return hidden + pose_map
