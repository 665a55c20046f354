"""What a transformer is shown of a face, and where faces are in a batch without features of them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from portraitgen.diffusion.image_condition import stretched
from portraitgen.faces.backend import keypoints_from_ibug68
from portraitgen.faces.conditioner import FaceView
from portraitgen.faces.key_point_drawing import draw_key_points

_SCHEME = "ibug68"


def shown_pictures(picture: Tensor, key_points: Tensor | None, size: tuple[int, int]) -> list[Tensor]:
    """Pictures [B, 3, H, W] of faces and, where these are given, of their key points drawn.

    Drawing is done on the CPU.

    Args:
        picture: [B, 3, S, S] in [-1, 1].
        key_points: [B, 5, 2] in its pixels.
        size: (H, W).
    """
    shown = [stretched(picture, size)]
    if key_points is not None:
        canvas = (picture.shape[-2], picture.shape[-1])
        drawn = np.stack([draw_key_points(each, canvas) for each in key_points.float().cpu().numpy()])
        levels = torch.from_numpy(drawn).to(picture.device).movedim(-1, 1)
        shown.append(stretched((levels.float() / 127.5 - 1).to(picture.dtype), size))
    return shown


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
