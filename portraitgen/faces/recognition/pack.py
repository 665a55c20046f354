"""The recognition network of an insightface pack, for generators that are told its embeddings as they are."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from portraitgen.faces.insightface import InsightFaceBackend
from portraitgen.faces.templates import ARCFACE, FaceTemplate
from portraitgen.media.public_weights import file_digest


class PackRecognizer(nn.Module):
    """The ONNX network of a pack, such as antelopev2's glintr100, which ConsisID is conditioned on.

    Not differentiable. `FaceRecognizer` of arcface_torch's file of the same network gives the same.

    Args:
        model_dir: folder with the pack's .onnx files; the packs are for non-commercial research only.

    Attributes:
        name, template, embedding_dim: as those of `FaceRecognizer`.

    Raises:
        ValueError: no pack there.
    """

    def __init__(self, model_dir: str) -> None:
        super().__init__()
        self.backend: InsightFaceBackend = InsightFaceBackend(model_dir)
        self.name = self.backend.name
        self.embedding_dim = self.backend.embedding_dim

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the network's file: not that of the same network as a `FaceRecognizer`."""
        return file_digest(self.backend.recognition_file)

    @property
    def template(self) -> FaceTemplate:
        return ARCFACE.scaled(self.backend.recognition_side)

    def raw(self, crops: Tensor) -> Tensor:
        """Embeddings float32 [B, D] of upright crops [B, 3, side, side] in [-1, 1]."""
        pictures = ((crops.float() + 1) * 127.5).round().clamp(0, 255).byte().movedim(1, -1).cpu().numpy()
        embeddings = self.backend.raw_embeddings(np.ascontiguousarray(pictures))
        return torch.from_numpy(embeddings).to(crops.device)
