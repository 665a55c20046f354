"""The face as the transformer sees it beside the noise, and where faces are in a batch without features."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from portraitgen.faces.backend import keypoints_from_ibug68
from portraitgen.faces.conditioner import FaceView

_SCHEME = "ibug68"


class ReferenceNoise:
    """Noise on the picture of the face, in pixels, before the VAE (as CogVideoX's, arXiv:2408.06072).

    Each picture in [-1, 1] gets a standard deviation of its own, whose logarithm is normal.

    Args:
        mean, std: of the logarithm; ConsisID's are −3 and 0.5, so 0.05 is what half of the pictures exceed.

    Raises:
        ValueError: `std` is negative.
    """

    def __init__(self, *, mean: float = -3.0, std: float = 0.5) -> None:
        if std < 0:
            raise ValueError(f"reference_noise.std is {std}: it must be 0 or more")
        self.mean, self.std = mean, std

    def __call__(self, pictures: Tensor) -> Tensor:
        """Noised pictures [B, 3, H, W]."""
        column = torch.randn(len(pictures), 1, 1, 1, device=pictures.device)
        sigma = (self.mean + self.std * column).exp().to(pictures.dtype)
        return pictures + sigma * torch.randn_like(pictures)


def stretched(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures [B, 3, S, S] of faces at the size (height, width) of the video, as ConsisID shows them."""
    resized = F.interpolate(pictures.float(), size, mode="bilinear", antialias=True)
    return resized.clamp(-1, 1).to(pictures.dtype)


def reference_views(batch: dict[str, Any]) -> list[FaceView]:
    """The faces of a batch's reference frames.

    Raises:
        ValueError: there are none, or their landmarks are not iBUG's 68.
    """
    if "reference" not in batch:
        raise ValueError(
            "a batch has neither features of faces nor reference frames: compute them with prepare.py "
            "features 'features=[face]' and set data.examples.features=[face], or data.examples.reference"
        )
    points = batch["reference_landmarks"].float().cpu().numpy()
    if points.shape[1] != 68:
        raise ValueError(
            f"the landmarks are {points.shape[1]} a face, but faces are aligned here by iBUG's 68: prepare "
            "the data with faces=dlib or insightface"
        )
    levels = ((batch["reference"].float() + 1) * 127.5).round().clamp(0, 255).byte()
    pictures = levels.movedim(1, -1).cpu().numpy()
    return [
        FaceView(np.ascontiguousarray(picture), keypoints_from_ibug68(each), each, _SCHEME)
        for picture, each in zip(pictures, points, strict=True)
    ]
