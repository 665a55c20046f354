"""InceptionV3 of 2015, whose 2048 pooled activations are the features of FID and KID (public weights).

The network of Heusel et al. 2017 as converted from TensorFlow; torchvision's is another one
(inception_torchvision.py).
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from portraitgen.media.public_weights import PublicFile, load_public_weights
from portraitgen.metrics.networks.channels_last import channels_last
from portraitgen.metrics.networks.fused_norms import fuse_norms
from portraitgen.metrics.networks.inception_blocks import NUM_FEATURES, SIZE, InceptionTrunk
from portraitgen.metrics.rgb import as_uint8

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


class Inception(InceptionTrunk):
    """The network of FID.

    Args:
        resize: how pictures are brought to 299x299, one of `RESIZES`.

    Raises:
        ValueError: an unknown way to resize.
    """

    def __init__(self, *, resize: Resize = "clean_fid") -> None:
        if resize not in RESIZES:
            raise ValueError(f"resize must be one of {', '.join(RESIZES)}, got {resize!r}")
        super().__init__(average="average", last="max")
        self.resize = resize
        self.fc = nn.Linear(NUM_FEATURES, NUM_CLASSES)
        """Not used for the features; part of the public file."""

    def forward(self, frames: Tensor) -> Tensor:
        """Pooled activations float32 [B, 2048] of pictures [B, 3, H, W], uint8 or float in [-1, 1]."""
        return self.features(preprocess(frames, resize=self.resize))


def load_inception(path: Path | str, *, resize: Resize = "clean_fid") -> Inception:
    """The network with the public weights, frozen.

    Raises:
        ValueError: as `load_public_weights`, or an unknown way to resize.
    """
    return channels_last(fuse_norms(load_public_weights(Inception(resize=resize), path, WEIGHTS)))
