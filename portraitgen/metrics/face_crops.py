"""Faces cut out upright as pictures of their own, for networks that look at a face and nothing else."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from portraitgen.faces.recognition.alignment import align_faces
from portraitgen.faces.templates import ARCFACE
from portraitgen.faces.types import Face

FACE_SIDE = 224


def upright_faces(images: Tensor, faces: Sequence[Face | None]) -> Tensor:
    """One face of each picture at 224x224, key points where ArcFace has them; None is left out.

    Args:
        images: uint8 [T, 3, H, W].
        faces: for each picture.

    Returns:
        uint8 [number of faces, 3, 224, 224].
    """
    nowhere = np.full((5, 2), np.nan, np.float32)
    keypoints = np.stack([nowhere if face is None else face.keypoints for face in faces])
    crops, found = align_faces(images.float(), torch.from_numpy(keypoints), ARCFACE.scaled(FACE_SIDE))
    return crops[found].round().clamp(0, 255).to(torch.uint8)
