"""Fréchet distance between two sets of samples in a feature space: FID, FVD and E-FID are this one metric."""

import warnings

import torch
from torch import Tensor

from portraitgen.metrics.feature_metric import FeatureMetric, FeatureNetwork


def frechet_distance(mean_x: Tensor, covariance_x: Tensor, mean_y: Tensor, covariance_y: Tensor) -> Tensor:
    """Squared Fréchet distance of two Gaussians, ‖μx − μy‖² + Tr(Σx + Σy − 2 (Σx Σy)^½); never negative.

    Dowson and Landau 1982; Heusel et al. 2017, equation 6. The matrix root of the product, which is not
    symmetric, goes wrong for rank-deficient covariances. The trace of that root is the sum of the singular
    values of Σx^½ Σy^½, with the roots taken by eigenvalues in float64; no square of them is ever formed, so
    that identical sets are at 1e-10 of their trace also with fewer samples than dimensions.

    Args:
        mean_x, mean_y: [D].
        covariance_x, covariance_y: [D, D], symmetric.

    Returns:
        float64 scalar, at least 0.
    """
    overlap = torch.linalg.svdvals(_square_root(covariance_x) @ _square_root(covariance_y)).sum()
    shift = (mean_x.double() - mean_y.double()).square().sum()
    distance = shift + covariance_x.double().trace() + covariance_y.double().trace() - 2 * overlap
    return distance.clamp(min=0)


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance.double())
    return vectors * values.clamp(min=0).sqrt() @ vectors.mT


def consisid_frechet_distance(
    mean_x: Tensor, covariance_x: Tensor, mean_y: Tensor, covariance_y: Tensor
) -> Tensor:
    """The number in ConsisID's "FID" column, which is NOT the Fréchet distance; only to compare with theirs.

    It treats the product Σx Σy as symmetric (its lower triangle is read), so it is too small or too large
    when covariances differ. Use `frechet_distance` for anything else.
    """
    product = torch.linalg.eigvalsh(covariance_x.double() @ covariance_y.double())
    overlap = product.clamp(min=0).sqrt().sum()
    shift = (mean_x.double() - mean_y.double()).square().sum()
    return shift + covariance_x.double().trace() + covariance_y.double().trace() - 2 * overlap


def small_sample_bias(covariance: Tensor, num_x: int, num_y: int) -> float:
    """Fréchet distance to expect between two samples of ONE distribution, only because they are finite.

    First order in 1/N for a Gaussian: (1/Nx + 1/Ny) (Σᵢ λᵢ + ½ Σᵢⱼ λᵢ λⱼ (1 + δᵢⱼ) / (λᵢ + λⱼ)) over the
    eigenvalues λ of its covariance. For the identity in D dimensions: (1/Nx + 1/Ny) (D + D (D + 1) / 4), so
    2.2 with D = 64 and 1000 samples each, 1026 with D = 2048 and 2048 samples each.

    Args:
        covariance: [D, D]. Estimated from fewer than D samples it lacks directions: the figure is too small.
        num_x, num_y: samples in each set.
    """
    values = torch.linalg.eigvalsh(covariance.double()).clamp(min=0)
    values = values[values > 0]
    pairs = values[:, None] * values / (values[:, None] + values)
    spread = values.sum() + (pairs.sum() + pairs.trace()) / 2
    return float(spread * (1 / num_x + 1 / num_y))


class FrechetDistance(FeatureMetric):
    """Fréchet distance of generated from real samples: FID, FVD or E-FID, as its features say.

    Mean and unbiased covariance are gathered as sums in float64, so memory does not grow with the number of
    samples. The distance is biased upwards at small N (`small_sample_bias`): between two samples of one
    64-dimensional unit Gaussian it is 82 at N = 16 and 2.2 at N = 1000; in 2048 dimensions 3375 at N = 100.
    Compare only distances of the same N; below num_features samples a warning states the bias.

    Args:
        features: from samples to [B, num_features]; a module is frozen and kept in evaluation mode.
        num_features: D.

    Raises:
        ValueError: features of another shape or not finite; fewer than 2 samples in a set at `compute`.
    """

    real_count: Tensor
    real_sum: Tensor
    real_outer: Tensor
    generated_count: Tensor
    generated_sum: Tensor
    generated_outer: Tensor

    def __init__(self, features: FeatureNetwork, *, num_features: int) -> None:
        super().__init__(features, num_features=num_features)
        for name in ("real", "generated"):
            zeros = torch.zeros(num_features, dtype=torch.float64)
            self.add_state(f"{name}_count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
            self.add_state(f"{name}_sum", zeros, dist_reduce_fx="sum")
            self.add_state(f"{name}_outer", torch.outer(zeros, zeros), dist_reduce_fx="sum")

    def update(self, samples: Tensor, *, real: bool) -> None:
        """Add samples [B, ...] as the feature network takes them to one of the two sets."""
        features = self.extract(samples).double()
        if real:
            self.real_count += len(features)
            self.real_sum += features.sum(dim=0)
            self.real_outer += features.mT @ features
        else:
            self.generated_count += len(features)
            self.generated_sum += features.sum(dim=0)
            self.generated_outer += features.mT @ features

    def compute(self) -> Tensor:
        """float64 scalar, at least 0."""
        num_real, num_generated = int(self.real_count), int(self.generated_count)
        if min(num_real, num_generated) < 2:
            raise ValueError(
                "a Fréchet distance needs at least 2 samples in each set to have a covariance, "
                f"got {num_real} real and {num_generated} generated"
            )
        real = _mean_and_covariance(num_real, self.real_sum, self.real_outer)
        generated = _mean_and_covariance(num_generated, self.generated_sum, self.generated_outer)
        if min(num_real, num_generated) < self.num_features:
            bias = small_sample_bias(real[1], num_real, num_generated)
            warnings.warn(
                f"Fréchet distance of {num_generated} generated from {num_real} real samples in "
                f"{self.num_features} dimensions: two samples of one distribution would already be about "
                f"{bias:.4g} or more apart. Compare only with results of the same numbers, or use KID."
            )
        return frechet_distance(*real, *generated)


def _mean_and_covariance(count: int, total: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    mean = total / count
    return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)
