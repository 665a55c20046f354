"""A recognition network and the identity loss at a size for tests."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from portraitgen.faces.recognition.recognizer import FaceRecognizer
from portraitgen.faces.templates import ARCFACE
from portraitgen.losses.identity.face_loss import DifferentiableFaceLoss
from portraitgen.losses.loss import ForwardPass, LossValue


class Glance(nn.Module):
    """Aligned faces 112x112 → 6 numbers."""

    template = ARCFACE
    embedding_dim = 6

    def __init__(self, seed: int = 5) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 5, stride=4)
        self.fc = nn.Linear(4 * 9, 6, bias=False)

    def stages(self, crops: Tensor) -> list[Tensor]:
        maps = torch.tanh(self.conv(crops))
        return [maps, maps * 2, maps + 1, maps - 1]

    def head(self, maps: Tensor) -> Tensor:
        return self.fc(adaptive_avg_pool2d(maps, 3).flatten(1))

    def forward(self, crops: Tensor) -> Tensor:
        return self.head(self.stages(crops)[-1])


def glance(seed: int = 5) -> FaceRecognizer:
    return FaceRecognizer(Glance(seed), name="glance", identity_threshold=0.5)


def face_loss(**settings: Any) -> DifferentiableFaceLoss:
    return DifferentiableFaceLoss(**({"recognizer": glance()} | settings))


def points(side: int) -> Tensor:
    """Key points [5, 2] of a face that fills a picture."""
    return torch.as_tensor(ARCFACE.keypoints).float() * (side / 112)


class ToyFaces(DifferentiableFaceLoss):
    """Tells of a face in those of the toy clips (tests/training/toy) whose number modulo 4 is in `of`."""

    def __init__(self, of: tuple[int, ...] = (0, 1, 2, 3), **settings: Any) -> None:
        super().__init__(**settings)
        self.of = of

    def forward(self, seen: ForwardPass) -> LossValue:
        frames = seen.batch["frames"]
        where = points(frames.shape[-1]).expand(*frames.shape[:2], 5, 2).clone()
        for row, key in enumerate(seen.batch["key"]):
            if int(key.rpartition("-")[2]) % 4 not in self.of:
                where[row] = torch.nan
        return super().forward(replace(seen, batch={**seen.batch, "key_points": where}))
