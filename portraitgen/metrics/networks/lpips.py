"""LPIPS: distance of two pictures in the features of AlexNet, weighted as people judge (public weights)."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
import torchmetrics.functional.image as torchmetrics_image
from torch import Tensor, nn

from portraitgen.media.public_weights import PublicFile, fill_strictly, read_public_tensors
from portraitgen.metrics.frames import is_still
from portraitgen.metrics.last_seen import LastStill
from portraitgen.metrics.networks.channels_last import channels_last
from portraitgen.metrics.rgb import as_uint8

WEIGHTS = PublicFile(
    "alexnet-owt-7be5be79.pth", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "BSD-3-Clause"
)
LAYER_WEIGHTS = PublicFile("lpips_models/alex.pth", "the package torchmetrics", "BSD-2-Clause")
MIN_SIDE = 32
CHUNK = 4
_TAPS = (1, 4, 7, 9, 11)
"""Places in AlexNet's `features` after which the pictures are compared."""
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPS = 1e-10


class Lpips(nn.Module):
    """Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", 2018 (v0.1)."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True)),
        )
        widths = (64, 192, 384, 256, 256)
        self.weights = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in widths)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(3, 1, 1), persistent=False)

    def forward(self, generated: Tensor, truth: Tensor) -> Tensor:
        """Distances float32 [B] of pictures [B, 3, H, W] in [-1, 1]; 0 for equal ones."""
        return self.compare(self.maps(generated), self.maps(truth))

    def compare(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        """Distances float32 [B] of pictures by their maps."""
        layers = zip(self.weights, ours, theirs, strict=True)
        return torch.stack([weight((a - b).square_()).mean(dim=(1, 2, 3)) for weight, a, b in layers]).sum(
            dim=0
        )

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """What is compared of pictures [B, 3, H, W] in [-1, 1]: a map [B, C, h, w] at each tap, of unit
        length at every place.
        """
        maps, found = (pictures - self.shift) / self.scale, []
        for place, layer in enumerate(self.features):
            maps = layer(maps)
            if place in _TAPS:
                found.append(maps / (torch.linalg.vector_norm(maps, dim=1, keepdim=True) + _EPS))
        return found


def load_lpips(path: Path | str) -> Lpips:
    """LPIPS with torchvision's AlexNet, frozen; the five layers' weights come with torchmetrics.

    Raises:
        ValueError: no such file, or one that does not fit.
    """
    tensors = {
        name: tensor
        for name, tensor in read_public_tensors(path, WEIGHTS).items()
        if not name.startswith("classifier.")
    }
    own = Path(torchmetrics_image.__file__).parent / LAYER_WEIGHTS.name
    for name, tensor in read_public_tensors(own, LAYER_WEIGHTS).items():
        tensors[name.replace("lin", "weights.").replace(".model.1", "")] = tensor
    return channels_last(fill_strictly(Lpips(), tensors, path=path, public=WEIGHTS))


@torch.no_grad()
def frame_lpips(network: Lpips, generated: Tensor, truth: Tensor) -> Tensor:
    """LPIPS of every frame: float32 [T].

    Args:
        generated: [T, 3, H, W] uint8, or float in [-1, 1] (then rounded to 8 bits first).
        truth: the same shape.

    Raises:
        ValueError: other shapes, or frames of fewer than 32 pixels a side.
    """
    if generated.shape != truth.shape or min(truth.shape[-2:]) < MIN_SIDE:
        raise ValueError(
            f"LPIPS needs frames of one shape and at least {MIN_SIDE} pixels a side, got "
            f"{list(generated.shape)} and {list(truth.shape)}"
        )
    ours = frame_maps(network, as_uint8(generated, name="generated frames"))
    return compare_maps(network, ours, frame_maps(network, as_uint8(truth, name="true frames")))


@torch.no_grad()
def frame_maps(
    network: Lpips, frames: Tensor, *, still: LastStill[list[Tensor]] | None = None
) -> Iterator[list[Tensor]]:
    """`Lpips.maps` of frames uint8 [T, 3, H, W], `CHUNK` at a time, once of those that are all the same.

    Args:
        still: knows the maps of a picture that went on in the frames before.
    """
    device = next(network.parameters()).device
    still = LastStill() if still is None else still

    def look(pictures: Tensor) -> list[Tensor]:
        return network.maps(pictures.to(device) / 127.5 - 1)

    for few in frames.split(CHUNK):
        alike = len(few) == 1 or is_still(few)  # the last of a copied picture may come alone
        maps = still.of(few[:1], partial(look, few[:1])) if alike else look(few)
        yield [each.expand(len(few), -1, -1, -1) for each in maps]


@torch.no_grad()
def compare_maps(network: Lpips, ours: Iterable[list[Tensor]], theirs: Iterable[list[Tensor]]) -> Tensor:
    """LPIPS float32 [T] of frames by their maps."""
    return torch.cat([network.compare(*pair) for pair in zip(ours, theirs, strict=True)])
