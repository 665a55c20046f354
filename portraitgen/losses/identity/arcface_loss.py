"""How unlike two pictures of a person are: the identity loss's figure of finished pictures, for grading."""

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.padded_search import find_face
from portraitgen.faces.recognition.recognizer import FaceRecognizer

Picture: TypeAlias = Tensor | np.ndarray | Any
"""Float tensor [3, H, W] in [-1, 1], uint8 array [H, W, 3] RGB, or a picture of PIL."""


class ArcFaceLoss:
    """1 − cosine of the embeddings of the largest faces of two pictures, in [0, 2]; no gradient.

    For a set of clips see `metrics.graders.identity.IdentityGrader`.

    Args:
        recognizer: another one than an identity loss looked with, or it grades itself.
        detector: finds the faces.
    """

    def __init__(self, recognizer: FaceRecognizer, detector: FaceBackend) -> None:
        self.recognizer, self.detector = recognizer, detector

    @torch.no_grad()
    def __call__(self, drawn: Picture, reference: Picture) -> float | None:
        """None where one of the pictures shows no face.

        Raises:
            ValueError: something that is no picture.
        """
        vectors = [self._embed(_pixels(picture)) for picture in (drawn, reference)]
        if vectors[0] is None or vectors[1] is None:
            return None
        return float(1 - (vectors[0] * vectors[1]).sum())

    def _embed(self, pixels: np.ndarray) -> Tensor | None:
        face = find_face(pixels, self.detector)
        if face is None:
            return None
        device = next(self.recognizer.parameters()).device
        image = torch.from_numpy(pixels).to(device).movedim(-1, 0)[None] / 127.5 - 1
        vector, valid = self.recognizer.embed(image, torch.from_numpy(face.keypoints)[None].to(device))
        return vector[0] if valid[0] else None


def _pixels(picture: Picture) -> np.ndarray:
    """uint8 [H, W, 3]."""
    if isinstance(picture, Tensor):
        if picture.ndim != 3 or picture.shape[0] != 3 or not picture.is_floating_point():
            raise ValueError(f"a picture is a float tensor [3, H, W] in [-1, 1], got {list(picture.shape)}")
        scaled = ((picture.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte()
        return np.ascontiguousarray(scaled.movedim(0, -1).cpu().numpy())
    pixels = np.asarray(picture)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"a picture is RGB, uint8 [H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
    return pixels.copy()  # PIL's cannot be written to, which torch warns of
