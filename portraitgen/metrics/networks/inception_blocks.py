"""InceptionV3 without its head: what its public versions share; how they pool is an argument."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, relu

SIZE = 299
NUM_FEATURES = 2048

Pool = Literal["average", "average_padded", "max"]


class InceptionTrunk(nn.Module):
    """Szegedy et al., "Rethinking the Inception architecture", 2016, up to the pooled activations.

    Args:
        average: how the blocks average neighbours.
        last: how the last block pools them.
    """

    def __init__(self, *, average: Pool, last: Pool) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = InceptionUnit(3, 32, (3, 3), stride=2, padding=(0, 0))
        self.Conv2d_2a_3x3 = InceptionUnit(32, 32, (3, 3), padding=(0, 0))
        self.Conv2d_2b_3x3 = InceptionUnit(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = InceptionUnit(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = InceptionUnit(80, 192, (3, 3), padding=(0, 0))
        self.blocks = []
        channels = 192
        for name, build in _blocks(average, last).items():
            self.add_module(name, block := build(channels))
            self.blocks.append(name)
            channels = block.out_channels

    def features(self, pixels: Tensor) -> Tensor:
        """Pooled activations [B, 2048] of pixels [B, 3, 299, 299] in the range of the network."""
        maps = self.Conv2d_1a_3x3(pixels)
        maps = max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(maps)), 3, stride=2)
        maps = max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(maps)), 3, stride=2)
        for name in self.blocks:
            maps = self.get_submodule(name)(maps)
        return maps.mean(dim=(2, 3))


class InceptionUnit(nn.Module):
    """Convolution, normalisation, ReLU; padded to keep the size unless it strides or is told otherwise."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: tuple[int, int],
        *,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if padding is None:
            padding = (0, 0) if stride > 1 else (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(channels, width, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, maps: Tensor) -> Tensor:
        return relu(self.bn(self.conv(maps)), inplace=True)


_Step = tuple[str, int, tuple[int, int]]
"""Name within the block, output channels, kernel of a unit."""


class _Mixed(nn.Module):
    """Branches side by side, and a pooled one; the last units of a branch may be two on the same input.

    Args:
        branches: each a chain of steps; a last element that is a list of steps forks.
        pool: "average" (of the 3x3 neighbours within the map), "average_padded" (of 9, zeros beyond its
            edge), or "max", then `pool_width` channels; "stride" halves the size by maximum, without a
            convolution, and the last step of each branch halves it too.
    """

    def __init__(
        self,
        channels: int,
        branches: Sequence[Sequence[_Step | list[_Step]]],
        *,
        pool: Pool | Literal["stride"],
        pool_width: int = 0,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.branches = [
            [[step[0] for step in place] if isinstance(place, list) else [place[0]] for place in chain]
            for chain in branches
        ]
        self.out_channels = pool_width or channels
        for chain in branches:
            inner = channels
            for number, place in enumerate(chain, start=1):
                steps = place if isinstance(place, list) else [place]
                stride = 2 if pool == "stride" and number == len(chain) else 1
                for name, width, kernel in steps:
                    self.add_module(name, InceptionUnit(inner, width, kernel, stride=stride))
                inner = sum(width for _, width, _ in steps)
            self.out_channels += inner
        if pool_width:
            self.branch_pool = InceptionUnit(channels, pool_width, (1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        outputs = []
        for chain in self.branches:
            inner = maps
            for names in chain:
                inner = torch.cat([self.get_submodule(name)(inner) for name in names], dim=1)
            outputs.append(inner)
        if self.pool == "stride":
            outputs.append(max_pool2d(maps, 3, stride=2))
        elif self.pool == "max":
            outputs.append(self.branch_pool(max_pool2d(maps, 3, stride=1, padding=1)))
        else:
            padded = self.pool == "average_padded"
            pooled = avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=padded)
            outputs.append(self.branch_pool(pooled))
        return torch.cat(outputs, dim=1)


def _block_35(channels: int, *, pool_width: int, pool: Pool) -> _Mixed:
    return _Mixed(
        channels,
        [
            [("branch1x1", 64, (1, 1))],
            [("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5))],
            [("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)), ("branch3x3dbl_3", 96, (3, 3))],
        ],
        pool=pool,
        pool_width=pool_width,
    )


def _block_17(channels: int, *, inner: int, pool: Pool) -> _Mixed:
    across, down = (1, 7), (7, 1)
    return _Mixed(
        channels,
        [
            [("branch1x1", 192, (1, 1))],
            [("branch7x7_1", inner, (1, 1)), ("branch7x7_2", inner, across), ("branch7x7_3", 192, down)],
            [
                ("branch7x7dbl_1", inner, (1, 1)),
                *(("branch7x7dbl_2", inner, down), ("branch7x7dbl_3", inner, across)),
                *(("branch7x7dbl_4", inner, down), ("branch7x7dbl_5", 192, across)),
            ],
        ],
        pool=pool,
        pool_width=192,
    )


def _block_8(channels: int, *, pool: Pool) -> _Mixed:
    return _Mixed(
        channels,
        [
            [("branch1x1", 320, (1, 1))],
            [
                ("branch3x3_1", 384, (1, 1)),
                [("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))],
            ],
            [
                ("branch3x3dbl_1", 448, (1, 1)),
                ("branch3x3dbl_2", 384, (3, 3)),
                [("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))],
            ],
        ],
        pool=pool,
        pool_width=192,
    )


def _to_17(channels: int) -> _Mixed:
    return _Mixed(
        channels,
        [
            [("branch3x3", 384, (3, 3))],
            [("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)), ("branch3x3dbl_3", 96, (3, 3))],
        ],
        pool="stride",
    )


def _to_8(channels: int) -> _Mixed:
    return _Mixed(
        channels,
        [
            [("branch3x3_1", 192, (1, 1)), ("branch3x3_2", 320, (3, 3))],
            [
                *(("branch7x7x3_1", 192, (1, 1)), ("branch7x7x3_2", 192, (1, 7))),
                *(("branch7x7x3_3", 192, (7, 1)), ("branch7x7x3_4", 192, (3, 3))),
            ],
        ],
        pool="stride",
    )


def _blocks(average: Pool, last: Pool) -> dict[str, Callable[[int], _Mixed]]:
    """Name -> what builds the block for a number of channels, in their order."""
    return {
        "Mixed_5b": partial(_block_35, pool_width=32, pool=average),
        "Mixed_5c": partial(_block_35, pool_width=64, pool=average),
        "Mixed_5d": partial(_block_35, pool_width=64, pool=average),
        "Mixed_6a": _to_17,
        "Mixed_6b": partial(_block_17, inner=128, pool=average),
        "Mixed_6c": partial(_block_17, inner=160, pool=average),
        "Mixed_6d": partial(_block_17, inner=160, pool=average),
        "Mixed_6e": partial(_block_17, inner=192, pool=average),
        "Mixed_7a": _to_8,
        "Mixed_7b": partial(_block_8, pool=average),
        "Mixed_7c": partial(_block_8, pool=last),
    }
