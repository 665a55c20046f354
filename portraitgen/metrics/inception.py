"""InceptionV3 of 2015, whose 2048 pooled activations are the features of FID and KID (public weights).

The network of Heusel et al. 2017 as converted from TensorFlow; torchvision's InceptionV3 is another one: its
average pooling counts padding, its last block pools otherwise, and its weights are later ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, relu

from portraitgen.media.public_weights import PublicFile, load_public_weights
from portraitgen.metrics.frames import as_uint8

SIZE = 299
NUM_FEATURES = 2048
NUM_CLASSES = 1008
WEIGHTS = PublicFile(
    "pt_inception-2015-12-05-6726825d.pth",
    "the releases of mseitzer/pytorch-fid (fid_weights), or of toshas/torch-fidelity",
    "Apache-2.0",
)

Resize = Literal["pytorch_fid", "torch_fidelity", "clean_fid", "torchmetrics"]
RESIZES = ("pytorch_fid", "torch_fidelity", "clean_fid", "torchmetrics")
"""Ways to 299x299, each with the range that its package uses; FIDs of two ways do not compare.

pytorch_fid: bilinear without antialiasing. torch_fidelity: the original, TensorFlow 1's bilinear, whose
pixels start at their corners. clean_fid: bicubic with antialiasing, not rounded to 8 bits (Parmar et al.
2022). torchmetrics: bilinear with antialiasing, its default.
"""


def preprocess(frames: Tensor, *, resize: Resize) -> Tensor:
    """Pictures as the network takes them: float32 [B, 3, 299, 299], about -1 to 1.

    Args:
        frames: [B, 3, H, W] uint8, or float in [-1, 1]; stretched if they are not square.
    """
    pixels = as_uint8(frames, name="pictures for Inception").float()
    size = (SIZE, SIZE)
    if resize == "pytorch_fid":
        return interpolate(pixels, size=size, mode="bilinear", align_corners=False) / 127.5 - 1
    if resize == "torch_fidelity":
        pixels = _resize_as_tensorflow_1(_resize_as_tensorflow_1(pixels, dim=-1), dim=-2)
    else:
        mode = "bicubic" if resize == "clean_fid" else "bilinear"
        pixels = interpolate(pixels, size=size, mode=mode, align_corners=False, antialias=True)
        if resize == "clean_fid":
            pixels = pixels.clamp(0, 255)
    return (pixels - 128) / 128


def _resize_as_tensorflow_1(pixels: Tensor, *, dim: int) -> Tensor:
    """Linear resampling of one axis to 299, where pixel i of the result is read at i · n / 299."""
    extent = pixels.shape[dim]
    places = torch.arange(SIZE, dtype=torch.float32, device=pixels.device) * (extent / SIZE)
    low = places.long()
    high = (low + 1).clamp(max=extent - 1)
    weight = (places - low).view(-1, *[1] * (-1 - dim))
    below, above = pixels.index_select(dim, low), pixels.index_select(dim, high)
    return below + (above - below) * weight


class Inception(nn.Module):
    """Szegedy et al., "Rethinking the Inception architecture", 2016, as FID uses it.

    Args:
        resize: how pictures are brought to 299x299, one of `RESIZES`.

    Raises:
        ValueError: an unknown way to resize.
    """

    def __init__(self, *, resize: Resize = "clean_fid") -> None:
        super().__init__()
        if resize not in RESIZES:
            raise ValueError(f"resize must be one of {', '.join(RESIZES)}, got {resize!r}")
        self.resize = resize
        self.Conv2d_1a_3x3 = _Unit(3, 32, (3, 3), stride=2, padding=(0, 0))
        self.Conv2d_2a_3x3 = _Unit(32, 32, (3, 3), padding=(0, 0))
        self.Conv2d_2b_3x3 = _Unit(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = _Unit(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = _Unit(80, 192, (3, 3), padding=(0, 0))
        channels = 192
        for name, block in _BLOCKS.items():
            self.add_module(name, block := block(channels))
            channels = block.out_channels
        self.fc = nn.Linear(NUM_FEATURES, NUM_CLASSES)
        """Not used for the features; part of the public file."""

    def forward(self, frames: Tensor) -> Tensor:
        """Pooled activations float32 [B, 2048] of pictures [B, 3, H, W], uint8 or float in [-1, 1]."""
        maps = self.Conv2d_1a_3x3(preprocess(frames, resize=self.resize))
        maps = max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(maps)), 3, stride=2)
        maps = max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(maps)), 3, stride=2)
        for name in _BLOCKS:
            maps = self.get_submodule(name)(maps)
        return maps.mean(dim=(2, 3))


def load_inception(path: Path | str, *, resize: Resize = "clean_fid") -> Inception:
    """The network with the public weights, frozen.

    Raises:
        ValueError: as `load_public_weights`, or an unknown way to resize.
    """
    return load_public_weights(Inception(resize=resize), path, WEIGHTS)


class _Unit(nn.Module):
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
        return relu(self.bn(self.conv(maps)))


_Step = tuple[str, int, tuple[int, int]]
"""Name within the block, output channels, kernel of a unit."""


class _Mixed(nn.Module):
    """Branches side by side, and a pooled one; the last units of a branch may be two on the same input.

    Args:
        branches: each a chain of steps; a last element that is a list of steps forks.
        pool: "average", leaving padding out, or "max", then `pool_width` channels; "stride" halves the size
            by maximum, without a convolution, and the last step of each branch halves it too.
    """

    def __init__(
        self,
        channels: int,
        branches: Sequence[Sequence[_Step | list[_Step]]],
        *,
        pool: Literal["average", "max", "stride"],
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
                    self.add_module(name, _Unit(inner, width, kernel, stride=stride))
                inner = sum(width for _, width, _ in steps)
            self.out_channels += inner
        if pool_width:
            self.branch_pool = _Unit(channels, pool_width, (1, 1))

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
            pooled = avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)
            outputs.append(self.branch_pool(pooled))
        return torch.cat(outputs, dim=1)


def _block_35(channels: int, *, pool_width: int) -> _Mixed:
    return _Mixed(
        channels,
        [
            [("branch1x1", 64, (1, 1))],
            [("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5))],
            [("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)), ("branch3x3dbl_3", 96, (3, 3))],
        ],
        pool="average",
        pool_width=pool_width,
    )


def _block_17(channels: int, *, inner: int) -> _Mixed:
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
        pool="average",
        pool_width=192,
    )


def _block_8(channels: int, *, pool: Literal["average", "max"]) -> _Mixed:
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


_BLOCKS = {
    "Mixed_5b": lambda channels: _block_35(channels, pool_width=32),
    "Mixed_5c": lambda channels: _block_35(channels, pool_width=64),
    "Mixed_5d": lambda channels: _block_35(channels, pool_width=64),
    "Mixed_6a": _to_17,
    "Mixed_6b": lambda channels: _block_17(channels, inner=128),
    "Mixed_6c": lambda channels: _block_17(channels, inner=160),
    "Mixed_6d": lambda channels: _block_17(channels, inner=160),
    "Mixed_6e": lambda channels: _block_17(channels, inner=192),
    "Mixed_7a": _to_8,
    "Mixed_7b": lambda channels: _block_8(channels, pool="average"),
    "Mixed_7c": lambda channels: _block_8(channels, pool="max"),
}
