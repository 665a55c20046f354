"""Features of samples for the distances between sets: the passed-in network that FID, FVD and KID share."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torchmetrics import Metric

FeatureNetwork: TypeAlias = Callable[[Tensor], Tensor]
"""From samples [B, ...] to features [B, D]: a network, or a function where samples are features already."""

EXPRESSION = slice(80, 144)
"""Where Deep3DFaceRecon's 257 coefficients hold expression: id 80, exp 64, tex 80, angle 3, gamma 27, ..."""


def deep3d_expression(coefficients: Tensor) -> Tensor:
    """The 64 expression coefficients of Deep3DFaceRecon's [B, 257]: the features of "E-FID (Deep3D)".

    E-FIDs of other face models (a tracker's blend shapes, an Inception network) are other metrics.

    Raises:
        ValueError: not 257 coefficients a face.
    """
    if coefficients.ndim != 2 or coefficients.shape[1] != 257:
        raise ValueError(f"expected Deep3DFaceRecon coefficients [B, 257], got {list(coefficients.shape)}")
    return coefficients[:, EXPRESSION]


class FeatureMetric(Metric):
    """A metric over what a frozen feature network sees, always in evaluation mode.

    Args:
        features: from samples to [B, num_features]; a module is frozen and kept in evaluation mode.
        num_features: D.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(self, features: FeatureNetwork, *, num_features: int) -> None:
        super().__init__()
        self.features = features
        self.num_features = num_features
        if isinstance(features, nn.Module):
            features.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FeatureMetric":
        """Keep the feature network in evaluation mode, whatever the module that owns this metric does."""
        super().train(mode)
        if isinstance(self.features, nn.Module):
            self.features.eval()
        return self

    def extract(self, samples: Tensor) -> Tensor:
        """Features [B, D] of samples [B, ...].

        Raises:
            ValueError: the network gives another shape, or values that are not finite.
        """
        features = self.features(samples)
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise ValueError(
                f"the feature network gave {list(features.shape)} for samples {list(samples.shape)}; "
                f"expected [B, {self.num_features}]: pool its output, or correct num_features"
            )
        if not torch.isfinite(features).all():
            raise ValueError(f"some features of samples {list(samples.shape)} are NaN or infinite")
        return features
