"""torchvision's InceptionV3, which is not that of FID: ConsisID's "FID" is a distance of its features.

Its average pooling counts the zeros beyond the edge, its last block averages too, and its weights are others.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from portraitgen.media.public_weights import PublicFile, load_public_weights
from portraitgen.metrics.networks.inception_blocks import NUM_FEATURES, SIZE, InceptionTrunk, InceptionUnit
from portraitgen.metrics.rgb import as_uint8

NUM_CLASSES = 1000
WEIGHTS = PublicFile(
    "inception_v3_google-0cc3c7bd.pth",
    "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
    "BSD-3-Clause",
)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TorchvisionInception(InceptionTrunk):
    """The network as `torchvision.models.inception_v3(weights=…)` builds it, without its last layer.

    It scales its input itself (`transform_input`), from ImageNet's normalisation to -1 to 1. ConsisID feeds
    it values from 0 to 1 instead of normalised ones; `forward` does that too.
    """

    def __init__(self) -> None:
        super().__init__(average="average_padded", last="average_padded")
        self.AuxLogits = nn.Module()
        """Head for training, not used: part of the public file, as `fc` is."""
        self.AuxLogits.conv0 = InceptionUnit(768, 128, (1, 1))
        self.AuxLogits.conv1 = InceptionUnit(128, 768, (5, 5), padding=(0, 0))
        self.AuxLogits.fc = nn.Linear(768, NUM_CLASSES)
        self.fc = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, frames: Tensor) -> Tensor:
        """Pooled activations float32 [B, 2048] of pictures [B, 3, H, W], uint8 or float in [-1, 1].

        They are brought to 299x299 as Pillow does: bilinear with antialiasing, rounded to 8 bits.
        """
        pixels = as_uint8(frames, name="pictures for Inception").float()
        resized = interpolate(pixels, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
        mean, std = (torch.tensor(each, device=frames.device) for each in (IMAGENET_MEAN, IMAGENET_STD))
        scale, shift = std / 0.5, (mean - 0.5) / 0.5
        shown = resized.round() / 255
        return self.features(shown * scale[:, None, None] + shift[:, None, None])


def load_torchvision_inception(path: Path | str) -> TorchvisionInception:
    """The network with the public weights, frozen.

    Raises:
        ValueError: as `load_public_weights`.
    """
    return load_public_weights(TorchvisionInception(), path, WEIGHTS)
