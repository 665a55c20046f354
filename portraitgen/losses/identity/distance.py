"""How far two faces are apart for a recognition network: of their embeddings, or of all that lies before."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from portraitgen.faces.recognition.recognizer import FaceRecognizer

FaceLossType = Literal["cosine", "multiscale"]

SCALES = (0.1, 0.2, 0.3, 0.4, 1.0)
"""Weights of the four stages' maps and of the embedding, as guangzhaoli/face has them."""


class FaceDistance:
    """Crops of two faces each → what is minimised and the cosine of the embeddings, [N] both.

    `cosine` is 1 − cos of the embeddings, in [0, 2]. `multiscale` adds up 1 − cos of the flattened maps after
    each of the network's four stages and that of the embeddings, each times its weight (guangzhaoli/face,
    seed 003). All crops of one side go through the network together.

    Raises:
        ValueError: the network has no stages to look at, or there are not five weights.
    """

    def __init__(
        self, recognizer: FaceRecognizer, kind: FaceLossType, scales: Sequence[float] = SCALES
    ) -> None:
        if kind == "multiscale" and not recognizer.has_stages:
            raise ValueError(
                f"face_loss_type=multiscale looks at the stages of a network, and {recognizer.name} has none:"
                " take face_loss_type=cosine, or the recognizer arcface, curricularface or mobileface"
            )
        if len(scales) != len(SCALES):
            raise ValueError(
                f"multiscale_weights has {len(scales)} numbers: give one for each of 4 stages and 1"
            )
        self.recognizer, self.kind, self.scales = recognizer, kind, tuple(scales)

    def look(self, crops: Tensor) -> list[Tensor]:
        """What is compared of crops [N, 3, side, side] in [-1, 1]: tensors [N, D], the embedding last."""
        if self.kind == "cosine":
            return [self.recognizer(crops)]
        maps, embedding = self.recognizer.stages(crops)
        return [*(each.flatten(1) for each in maps), embedding]

    def __call__(self, drawn: Sequence[Tensor], true: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Of what `look` gave of both. The true one is compared with, not learnt."""
        cosines = [
            cosine_similarity(one, other.detach(), dim=1) for one, other in zip(drawn, true, strict=True)
        ]
        if self.kind == "cosine":
            return 1 - cosines[-1], cosines[-1].detach()
        scaled = [weight * (1 - cosine) for weight, cosine in zip(self.scales, cosines, strict=True)]
        return torch.stack(scaled).sum(dim=0), cosines[-1].detach()
