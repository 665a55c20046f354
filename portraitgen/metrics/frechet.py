"""Fréchet distance between two sets of samples in a feature space: FID, FVD and E-FID are this one metric."""

from typing import NamedTuple

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


def frechet_distance_of_samples(x: Tensor, y: Tensor) -> Tensor:
    """`frechet_distance` of the Gaussians of two sets of samples, without a matrix of D x D.

    With Σx = AᵀA of the centred samples, the singular values of Σx^½ Σy^½ are those of A Bᵀ, which is as
    small as the sets are.

    Args:
        x, y: [N, D] and [M, D], 2 samples or more each.

    Returns:
        float64 scalar, at least 0.
    """
    a, b = _centred(x), _centred(y)
    shift = (x.double().mean(dim=0) - y.double().mean(dim=0)).square().sum()
    overlap = torch.linalg.svdvals(a @ b.mT).sum()
    return (shift + a.square().sum() + b.square().sum() - 2 * overlap).clamp(min=0)


def _centred(samples: Tensor) -> Tensor:
    """A [N, D] with the unbiased covariance AᵀA of the samples."""
    samples = samples.double()
    return (samples - samples.mean(dim=0)) / (len(samples) - 1) ** 0.5


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
        covariance: [D, D], or any matrix of its eigenvalues. Estimated from fewer than D samples it lacks
            directions: the figure is too small.
        num_x, num_y: samples in each set.
    """
    values = torch.linalg.eigvalsh(covariance.double()).clamp(min=0)
    values = values[values > 0]
    pairs = values[:, None] * values / (values[:, None] + values)
    spread = values.sum() + (pairs.sum() + pairs.trace()) / 2
    return float(spread * (1 / num_x + 1 / num_y))


class FrechetDistance(FeatureMetric):
    """Fréchet distance of generated from real samples: FID, FVD or E-FID, as its features say.

    Of up to D samples the samples are kept, of more their mean and unbiased covariance as sums in float64: no
    more memory than one matrix of D x D for each set. The distance is biased upwards at small N
    (`small_sample_bias`): between two samples of one 64-dimensional unit Gaussian it is 82 at N = 16 and 2.2
    at N = 1000; in 2048 dimensions 3375 at N = 100.
    Compare only distances of the same N, and state `bias` beside them.

    Args:
        features: from samples to [B, num_features]; a module is frozen and kept in evaluation mode.
        num_features: D.

    Raises:
        ValueError: features of another shape or not finite; fewer than 2 samples in a set at `compute`.
    """

    real_samples: list[Tensor]
    real_sums: list[Tensor]
    generated_samples: list[Tensor]
    generated_sums: list[Tensor]

    def __init__(self, features: FeatureNetwork, *, num_features: int) -> None:
        super().__init__(features, num_features=num_features)
        for name in ("real", "generated"):
            # Lists, since torchmetrics keeps a state twice, and flat, as it lets a process take part that
            # has nothing yet.
            self.add_state(f"{name}_samples", [], dist_reduce_fx="cat")
            self.add_state(f"{name}_sums", [], dist_reduce_fx="cat")

    @property
    def dtype(self) -> torch.dtype:
        """Of the states, also of those of a process that has nothing yet."""
        return torch.float64

    def update(self, samples: Tensor, *, real: bool) -> None:
        """Add samples [B, ...] as the feature network takes them to one of the two sets."""
        name = "real" if real else "generated"
        getattr(self, f"{name}_samples").append(self.extract(samples).double().flatten())
        gathered = self._gathered(real=real)
        if len(gathered.sums) or len(gathered.samples) > self.num_features:
            setattr(self, f"{name}_samples", [])
            setattr(self, f"{name}_sums", [gathered.total()])

    def _gathered(self, *, real: bool) -> "_Gathered":
        """One of the two sets, by this process or, where torchmetrics has gathered them, by all."""
        size, nothing = self.num_features, torch.zeros(0, dtype=self.dtype, device=self.device)
        flat = (self.real_samples, self.real_sums) if real else (self.generated_samples, self.generated_sums)
        samples, sums = (each if isinstance(each, Tensor) else torch.cat([nothing, *each]) for each in flat)
        return _Gathered(samples.view(-1, size), sums.view(-1, 1 + size + size**2))

    @property
    def enough(self) -> bool:
        """Whether both sets have the 2 samples that make a covariance."""
        return min(self._gathered(real=real).number for real in (True, False)) >= 2

    def compute(self) -> Tensor:
        """float64 scalar, at least 0."""
        real, generated = self._gathered(real=True), self._gathered(real=False)
        if min(real.number, generated.number) < 2:
            raise ValueError(
                "a Fréchet distance needs at least 2 samples in each set to have a covariance, "
                f"got {real.number} real and {generated.number} generated"
            )
        if real.all_kept and generated.all_kept:
            return frechet_distance_of_samples(real.samples, generated.samples)
        return frechet_distance(*real.moments(), *generated.moments())

    def bias(self) -> float:
        """`small_sample_bias` of what has been gathered, from the covariance of the real samples.

        Too small where they are fewer than features. After `torchmetrics` has gathered the processes, that
        is within `sync_context`.
        """
        real, generated = self._gathered(real=True), self._gathered(real=False)
        if real.all_kept:
            centred = _centred(real.samples)
            covariance = centred @ centred.mT  # its eigenvalues, but for zeros
        else:
            covariance = real.moments()[1]
        return small_sample_bias(covariance, real.number, generated.number)


class _Gathered(NamedTuple):
    """A set of samples, some of which are kept: [N, D], and some in sums only: [P, 1 + D + D²], by process.

    A sum is of their number, of themselves, and of their products with themselves.
    """

    samples: Tensor
    sums: Tensor

    @property
    def number(self) -> int:
        return len(self.samples) + int(self.sums[:, 0].sum())

    @property
    def all_kept(self) -> bool:
        """Whether the samples themselves are there, and are less than their products would be."""
        return not len(self.sums) and len(self.samples) <= self.samples.shape[1]

    def total(self) -> Tensor:
        """Of all samples: [1 + D + D²]."""
        total = self.sums.sum(dim=0)
        count, sums, products = self._split(total)
        count += len(self.samples)
        sums += self.samples.sum(dim=0)
        products.addmm_(self.samples.mT, self.samples)
        return total

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean [D] and unbiased covariance [D, D]."""
        count, sums, products = self._split(self.total())
        mean = sums / count
        return mean, products.sub_(count * torch.outer(mean, mean)).div_(count - 1)

    def _split(self, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = self.samples.shape[1]
        count, sums, products = total.split([1, size, size**2])
        return count, sums, products.view(size, size)
