"""Which pixels of an upright face are shown to CLIP: by a parsing network, or by the landmarks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from portraitgen.faces.hull import face_hull
from portraitgen.faces.parsing.bisenet import BiSeNet, load_bisenet

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BACKGROUND = (0, 7, 8, 9, 14, 15, 16, 18)
"""Background, ears and their rings, necklace, neck, clothes and hat: BiSeNet's classes that ConsisID paints
white.
"""


class NetworkParser(nn.Module):
    """Face and hair by BiSeNet, as ConsisID has it.

    Attributes:
        source: what features of such faces say of their masks.
        needs_landmarks: whether it goes by them.
    """

    source = "bisenet"
    needs_landmarks = False

    def __init__(self, network: BiSeNet) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(
        self, pictures: Tensor, landmarks: Sequence[np.ndarray], key_points: np.ndarray, scheme: str
    ) -> Tensor:
        """bool [B, 1, S, S], True outside of face and hair; see `LandmarkParser`."""
        return background_of(self.network(normalised(pictures, IMAGENET)))


class LandmarkParser(nn.Module):
    """The hull of the landmarks and the forehead: the face without its hair; needs no weights."""

    source = "landmarks"
    needs_landmarks = True

    @torch.no_grad()
    def forward(
        self, pictures: Tensor, landmarks: Sequence[np.ndarray], key_points: np.ndarray, scheme: str
    ) -> Tensor:
        """bool [B, 1, S, S], True outside of the face.

        Args:
            pictures: upright faces [B, 3, S, S] in [0, 1].
            landmarks: B of float [K, 2], in pixels of these pictures.
            key_points: float [B, 5, 2], likewise.
            scheme: of the landmarks.

        Raises:
            ValueError: a face has no landmarks.
        """
        size = (int(pictures.shape[-2]), int(pictures.shape[-1]))
        outside = []
        for points, five in zip(landmarks, key_points, strict=True):
            if not len(points) or not np.isfinite(points).all():
                raise ValueError(
                    "this face has no landmarks to outline it: prepare with landmarks (import_consisid:"
                    " landmarks=true), or parse it with BiSeNet's weights"
                )
            outside.append(~face_hull(points, five, scheme=scheme, image_size=size))
        return torch.from_numpy(np.stack(outside))[:, None].to(pictures.device)


FaceParser = NetworkParser | LandmarkParser


def load_parser(weights: Path | str | None = None) -> FaceParser:
    """By BiSeNet with the weights of a file; without one by landmarks.

    Raises:
        ValueError: no such file, or it does not fit; what to fetch.
    """
    return LandmarkParser() if weights is None else NetworkParser(load_bisenet(weights))


def background_of(scores: Tensor) -> Tensor:
    """bool [B, 1, H, W] of BiSeNet's scores [B, 19, H, W]: where they are highest for a class of
    `BACKGROUND`.
    """
    labels = scores.argmax(dim=1, keepdim=True)
    return torch.isin(labels, torch.tensor(BACKGROUND, device=labels.device))


def normalised(pictures: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """Pictures [B, 3, H, W] less a mean, through a deviation."""
    mean, deviation = (torch.tensor(values, device=pictures.device).view(1, 3, 1, 1) for values in statistics)
    return (pictures - mean) / deviation
