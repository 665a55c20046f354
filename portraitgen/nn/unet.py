"""The body of Stable Diffusion's U-Net, with places that reference attention, motion and sound visit.

It is built from the modules of diffusers' ``UNet2DConditionModel`` under the same names, so checkpoints
keep their keys. Only the order of the calls is written here, because diffusers' forward has no place for
pose maps and reference features: one explicit walk serves the image, the video and the reference network.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from portraitgen.nn.checkpointing import run
from portraitgen.nn.reference_attention import SpatialTransformer


@dataclass(frozen=True, slots=True)
class Place:
    """Behind a resnet of a level, or between those of the middle.

    Attributes:
        spatial: the spatial transformer, where the level has attention.
        modules: what else was built there, by kind.
    """

    spatial: SpatialTransformer | None
    modules: Mapping[str, nn.Module]


# How hidden states pass a place. The caller of the walk decides: the walk knows no reference and no time.
Visit = Callable[[Place, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class PlaceModules:
    """What is built at every place, under one name in each level.

    Attributes:
        make: channels of the hidden states → module.
        in_middle: whether the middle has one too.
    """

    make: Callable[[int], nn.Module]
    in_middle: bool = True


class UNetLevel(nn.Module):
    """The modules of one resolution, taken over from a diffusers block. `UNetTrunk` walks them."""

    def __init__(self, block: Any, kinds: Mapping[str, list[nn.Module]]) -> None:
        super().__init__()
        self.resnets: nn.ModuleList = block.resnets
        self.attentions = nn.ModuleList(map(SpatialTransformer, getattr(block, "attentions", ())))
        for kind, modules in kinds.items():
            self.add_module(kind, nn.ModuleList(modules))
        self.downsamplers: nn.ModuleList = getattr(block, "downsamplers", None) or nn.ModuleList()
        self.upsamplers: nn.ModuleList = getattr(block, "upsamplers", None) or nn.ModuleList()
        self._kinds = tuple(kinds)

    @property
    def spatial_transformers(self) -> list[SpatialTransformer]:
        """The spatial transformers in running order."""
        return cast(list[SpatialTransformer], list(self.attentions))

    def steps(self, *, first: int = 0) -> Iterator[tuple[nn.Module, Place]]:
        """The steps of the level in running order, with the resnets from number `first` on."""
        spatial = self.spatial_transformers
        built = {kind: cast(nn.ModuleList, getattr(self, kind)) for kind in self._kinds}
        for index, resnet in enumerate(self.resnets[first:]):
            modules = {kind: listed[index] for kind, listed in built.items() if index < len(listed)}
            yield resnet, Place(spatial[index] if index < len(spatial) else None, modules)


class UNetTrunk(nn.Module):
    """From `conv_in` to the last up block.

    Args:
        source: the U-Net whose modules are taken over; do not use it afterwards.
        kinds: what is built at every place beside diffusers' modules, by name: attributes of `UNetLevel`.
    """

    _no_split_modules = (
        "ReferenceTransformerBlock",
        "ResnetBlock2D",
        "TemporalTransformer",
        "TokenAttention",
    )
    """Blocks whose parameters are gathered together where they are sharded, named as diffusers does."""

    def __init__(self, source: UNet2DConditionModel, kinds: Mapping[str, PlaceModules]) -> None:
        super().__init__()
        blocks: Any = source  # nn.Module does not know the types of its submodules

        def build(resnets: Iterable[Any], *, middle: bool = False) -> dict[str, list[nn.Module]]:
            widths = [resnet.out_channels for resnet in resnets]
            return {
                name: [kind.make(width) for width in widths] if kind.in_middle or not middle else []
                for name, kind in kinds.items()
            }

        self.block_out_channels: tuple[int, ...] = tuple(source.config["block_out_channels"])
        self.context_dim: int = source.config["cross_attention_dim"]
        self.conv_in = source.conv_in
        self.time_proj = source.time_proj
        self.time_embedding = source.time_embedding
        self.down_blocks = nn.ModuleList(
            UNetLevel(block, build(block.resnets)) for block in blocks.down_blocks
        )
        middle = blocks.mid_block
        self.mid_block = UNetLevel(middle, build(middle.resnets[1:], middle=True))
        self.up_blocks = nn.ModuleList(UNetLevel(block, build(block.resnets)) for block in blocks.up_blocks)
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

    @property
    def places(self) -> list[Place]:
        """All places in running order."""
        levels = [(level, 0) for level in self.down_levels]
        levels += [(self.mid_block, 1), *((level, 0) for level in self.up_levels)]
        return [place for level, first in levels for _, place in level.steps(first=first)]

    def embed_time(self, time: Tensor, like: Tensor) -> Tensor:
        """Embedding [N, E] of times [N], in the precision of `like`."""
        embedding: Tensor = self.time_embedding(self.time_proj(time).to(like.dtype))
        return embedding

    def walk(self, sample: Tensor, embedding: Tensor, visit: Visit, *, pose: Sequence[Tensor] = ()) -> Tensor:
        """Hidden states [N, c0, H, W] behind the last up block, of N images or frames.

        Args:
            sample: [N, C, H, W].
            embedding: of the time, [N, E].
            visit: called with each place and the hidden states, returns the new hidden states.
            pose: no map, or one more than levels, [N, c, h, w]. The first joins behind `conv_in`, and so
                enters the first skip; the others join behind the down blocks, after the skips were taken.
        """
        hidden = self.conv_in(sample)
        if pose:
            hidden = _add_map(hidden, pose[0])
        skips = [hidden]
        for depth, level in enumerate(self.down_levels, start=1):
            for resnet, place in level.steps():
                hidden = visit(place, self.run(resnet, hidden, embedding))
                skips.append(hidden)
            for downsample in level.downsamplers:
                hidden = downsample(hidden)
                skips.append(hidden)
            if pose:
                hidden = _add_map(hidden, pose[depth])

        hidden = self.run(self.mid_block.resnets[0], hidden, embedding)
        for resnet, place in self.mid_block.steps(first=1):
            hidden = self.run(resnet, visit(place, hidden), embedding)

        for level in self.up_levels:
            for resnet, place in level.steps():
                hidden = torch.cat([hidden, skips.pop()], dim=1)
                hidden = visit(place, self.run(resnet, hidden, embedding))
            for upsample in level.upsamplers:
                # To the skip's size rather than twice the own: odd sizes come back as they were.
                hidden = upsample(hidden, output_size=skips[-1].shape[-2:])
        return hidden

    def run(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Call a module, with gradient checkpointing if that is on."""
        return run(module, *args, recompute=self.gradient_checkpointing, **kwargs)


def _add_map(hidden: Tensor, pose_map: Tensor) -> Tensor:
    if hidden.shape != pose_map.shape:
        raise ValueError(
            f"pose map of shape {tuple(pose_map.shape)} where the U-Net has {tuple(hidden.shape)}: "
            "the drawing must be 8 times the latent grid, with one drawing for each frame"
        )
    return hidden + pose_map
