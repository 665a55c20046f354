"""What a generator is told of a face, a batch at a time: who it is, what it looks like, and where it is.

As ConsisID has it (PKU-YuanGroup/ConsisID, models/consisid_utils.py), but of one face, never of two: whoever
cuts it out says which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from portraitgen.faces.backend import FaceBackend, largest_face
from portraitgen.faces.eva_clip import EvaClip, untrained_eva_clip
from portraitgen.faces.identity_condition import BORDER, on_white, resized
from portraitgen.faces.parsing.parser import FaceParser, LandmarkParser
from portraitgen.faces.recognition.mobileface import MobileFace
from portraitgen.faces.recognition.pack import PackRecognizer
from portraitgen.faces.recognition.recognizer import FaceRecognizer
from portraitgen.faces.templates import FACEXLIB, upright_crop, upright_matrix
from portraitgen.media.geometry import apply_affine


@dataclass(frozen=True, slots=True, eq=False)
class FaceView:
    """One face in a picture.

    Attributes:
        picture: uint8 [H, W, 3] RGB.
        key_points: float [5, 2] in its pixels.
        landmarks: float [K, 2] in its pixels; [0, 2] where there are none.
        scheme: of the landmarks.
    """

    picture: np.ndarray
    key_points: np.ndarray
    landmarks: np.ndarray
    scheme: str


@dataclass(frozen=True, slots=True, eq=False)
class FaceConditions:
    """Of B faces, as `data/batch` has them.

    Attributes:
        embedding: float32 [B, D + E]: the recognition network's, as it gives it, and CLIP's projection of
            unit length.
        hidden: [B, n, N, C]: CLIP's inner layers.
        picture: uint8 [B, 512, 512, 3] RGB: the face upright, in colour, on white.
        key_points: float32 [B, 5, 2] in pixels of `picture`.
    """

    embedding: Tensor
    hidden: Tensor
    picture: Tensor
    key_points: Tensor

    def batch(self) -> dict[str, Tensor]:
        """Under the keys of a batch and as systems see it: the picture is float [B, 3, S, S] in [-1, 1]."""
        return {
            "face_embedding": self.embedding,
            "face_hidden": self.hidden,
            "face_picture": self.picture.movedim(-1, 1).float() / 127.5 - 1,
            "face_key_points": self.key_points,
        }


class FaceConditioner(nn.Module):
    """The three networks that look at a face; frozen.

    Args:
        recognizer: who it is; ConsisID's is antelopev2's glintr100 (`PackRecognizer`, or its weights as a
            `FaceRecognizer`).
        parser: what of the picture is face.
        looks: what it looks like; ConsisID's is EVA02-CLIP-L-14-336.

    Attributes:
        embedding_dim: D + E.
    """

    def __init__(
        self, recognizer: FaceRecognizer | PackRecognizer, parser: FaceParser, looks: EvaClip
    ) -> None:
        super().__init__()
        self.recognizer, self.parser, self.looks = recognizer, parser, looks
        self.embedding_dim = recognizer.embedding_dim + looks.projection_dim
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, views: Sequence[FaceView]) -> FaceConditions:
        """Look at faces; each network sees all of them at once."""
        device = self.looks.cls_token.device
        aligned = torch.stack([_upright(view) for view in views]).to(device)
        placed = [_to_upright(view.key_points, view) for view in views]
        landmarks = [_to_upright(view.landmarks, view) for view in views]
        (scheme,) = {view.scheme for view in views}
        pictures = aligned.movedim(-1, 1).float() / 255
        background = self.parser(pictures, landmarks, np.stack(placed), scheme)
        shown, seen = on_white(pictures, background)
        projection, hidden = self.looks(resized(seen, self.looks.image_size))
        crops = torch.stack([self._recognised(view) for view in views]).to(device)
        identity = self.recognizer.raw(crops.movedim(-1, 1).float() / 127.5 - 1)
        looks = projection.float() / projection.float().norm(dim=-1, keepdim=True)
        return FaceConditions(
            embedding=torch.cat([identity.float(), looks], dim=-1),
            hidden=hidden,
            picture=(shown * 255).round().byte().movedim(1, -1),
            key_points=torch.from_numpy(np.stack(placed)).to(device),
        )

    def of_photos(self, photos: Sequence[np.ndarray], backend: FaceBackend) -> FaceConditions:
        """Of the largest face in each picture, uint8 [H, W, 3] RGB.

        Raises:
            ValueError: a picture shows no face.
        """
        views = []
        for number, photo in enumerate(photos, start=1):
            sure = [face for face in backend.detect(photo) if face.score >= backend.min_score]
            face = largest_face(sure)
            if face is None:
                raise ValueError(
                    f"no face found in photo {number} of {len(photos)}: take one that shows it larger, or "
                    f"whole"
                )
            views.append(FaceView(photo, face.keypoints, face.landmarks, backend.landmark_scheme))
        return self(views)

    def facts(self) -> Mapping[str, Any]:
        """What the values depend on beside the weights of its modules, as JSON takes it."""
        file = None
        if isinstance(self.recognizer, PackRecognizer):
            file = self.recognizer.digest
        return {
            "recognizer": self.recognizer.name,
            "recognizer_file": file,
            "masks": self.parser.source,
            "looks": {"image_size": self.looks.image_size, "inner": list(self.looks.inner)},
        }

    def train(self, mode: bool = True) -> "FaceConditioner":
        """Stays in evaluation mode whatever the training loop asks for."""
        return super().train(False)

    def _recognised(self, view: FaceView) -> Tensor:
        """uint8 [S, S, 3], as the recognition network looks at it."""
        return torch.from_numpy(upright_crop(view.picture, view.key_points, self.recognizer.template))


def _upright(view: FaceView) -> Tensor:
    """uint8 [512, 512, 3]."""
    return torch.from_numpy(upright_crop(view.picture, view.key_points, FACEXLIB, fill=BORDER))


def _to_upright(points: np.ndarray, view: FaceView) -> np.ndarray:
    """Points [K, 2] of a picture in pixels of its upright face, float32."""
    return apply_affine(points, upright_matrix(view.key_points, FACEXLIB)).astype(np.float32)


def untrained_conditioner(*, seed: int = 0) -> FaceConditioner:
    """With tiny networks whose random weights follow from `seed`, masks by landmarks: for tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MobileFace()
    recognizer = FaceRecognizer(network, name=f"untrained_{seed}", identity_threshold=1.0)
    return FaceConditioner(recognizer, LandmarkParser(), untrained_eva_clip(seed=seed))
