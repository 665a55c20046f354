"""Where faces are in a batch without features of them."""

from typing import Any

import numpy as np

from portraitgen.faces.backend import keypoints_from_ibug68
from portraitgen.faces.conditioner import FaceView

_SCHEME = "ibug68"


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
