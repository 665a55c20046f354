"""How much a row counts by its noise: the clean estimate of a very noisy sample shows no face to judge."""

from typing import Literal, get_args

import torch
from torch import Tensor

GateKind = Literal["squared", "linear", "below"]


class NoiseGate:
    """Noise levels [B] in [0, 1] → weights [B] in [0, 1].

    Args:
        kind: "squared": (1 − t)², as ID-Booth (Tomašević et al. 2025) weighs its identity loss. "linear":
            1 − t, but no less than `least`. "below": 1 where t is below `limit`, else 0 (PortraitBooth, Peng
            et al. 2024, looks at low noise only).
        least: for "linear".
        limit: for "below".

    Raises:
        ValueError: unknown kind, or `least` or `limit` is not in [0, 1].
    """

    def __init__(self, kind: GateKind, *, least: float = 0.1, limit: float = 0.5) -> None:
        if kind not in get_args(GateKind):
            raise ValueError(f"gate.kind is {kind!r}: use one of {', '.join(get_args(GateKind))}")
        for name, value in (("least", least), ("limit", limit)):
            if not 0 <= value <= 1:
                raise ValueError(f"gate.{name} is {value}: it must be in [0, 1]")
        self.kind = kind
        self.least = least
        self.limit = limit

    def __call__(self, level: Tensor) -> Tensor:
        if self.kind == "squared":
            return (1 - level).square()
        if self.kind == "linear":
            return (1 - level).clamp(min=self.least)
        return torch.where(level < self.limit, 1.0, 0.0)
