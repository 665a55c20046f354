"""Arithmetic of ConsisID's evaluation where it differs from ours: only to compare with its published table.

PKU-YuanGroup/ConsisID, eval/get_facesim_fid.py and eval/get_clipscore.py. Frames without a face are left out
there as here, but a video without any scores 0 in its similarity and 0, the best, in its "FID"; ours is
missing.
"""

import numpy as np
import torch
from torch import Tensor

PADDING = 1.25
GREY = 128


def clamped_similarity(cosines: np.ndarray) -> float:
    """ConsisID's "FaceSim": mean of max(0, cosine) over the frames with a face; NaN without any."""
    found = cosines[np.isfinite(cosines)]
    return float(np.maximum(found, 0).mean()) if len(found) else float("nan")


def pad_grey(image: np.ndarray, factor: float = PADDING) -> tuple[np.ndarray, tuple[int, int]]:
    """Grey borders of `factor` - 1 of the sides on each side, where a face that fills the picture is found.

    Args:
        image: uint8 [H, W, 3].

    Returns:
        uint8 [H', W', 3], and how far left and top (x, y) of the picture moved.
    """
    height, width = image.shape[:2]
    top, left = int(height * (factor - 1)), int(width * (factor - 1))
    return np.pad(image, ((top, top), (left, left), (0, 0)), constant_values=GREY), (left, top)


def face_inception_l2(generated: Tensor, reference: Tensor) -> Tensor:
    """Squared distance of Inception features: what ConsisID's "FID" column is, without its detour.

    There one picture of each side is repeated, so that both covariances are 0 and the Fréchet distance is the
    distance of the means; its 3 seconds of eigenvalues a frame are left out here.

    Args:
        generated: [T, D], of the faces in the frames.
        reference: [D].

    Returns:
        float64 [T].
    """
    return (generated.double() - reference.double()).square().sum(dim=-1)


def to_bgr(frames: Tensor) -> Tensor:
    """Frames [..., 3, H, W] with red and blue exchanged, as ConsisID shows them to CLIP."""
    return torch.flip(frames, dims=(-3,))
