"""Kernel distance between two sets of samples in a feature space: KID, unbiased at any number of samples."""

import torch
from torch import Tensor

from portraitgen.metrics.feature_metric import FeatureMetric, FeatureNetwork


def polynomial_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y / D + 1)³; may be below 0.

    Bińkowski et al., "Demystifying MMD GANs", 2018.

    Args:
        x: [N, D], N at least 2.
        y: [M, D], M at least 2.

    Returns:
        float64 scalar.
    """
    x, y = x.double(), y.double()
    within_x, within_y, across = (((a @ b.mT) / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    mean_x = (within_x.sum() - within_x.trace()) / (len(x) * (len(x) - 1))
    mean_y = (within_y.sum() - within_y.trace()) / (len(y) * (len(y) - 1))
    return mean_x + mean_y - 2 * across.mean()


class KernelDistance(FeatureMetric):
    """Kernel distance (KID with Inception features): unbiased at any N, unlike the Fréchet distance.

    `polynomial_mmd` over random subsets of both sets. Which samples make a subset follows from the seed and
    from the features themselves, so neither the order nor the batches nor the processes change it. All
    features are kept.

    Args:
        features: from samples to [B, num_features]; a module is frozen and kept in evaluation mode.
        num_features: D.
        subsets: number of subsets.
        subset_size: samples of each set in a subset.
        seed: of the choice of subsets.

    Raises:
        ValueError: features of another shape or not finite; a subset smaller than 2, or larger than a set.
    """

    real: list[Tensor]
    generated: list[Tensor]

    def __init__(
        self,
        features: FeatureNetwork,
        *,
        num_features: int,
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__(features, num_features=num_features)
        if subset_size < 2 or subsets < 1:
            raise ValueError(
                f"a kernel distance needs subset_size at least 2 and subsets at least 1, "
                f"got subset_size={subset_size}, subsets={subsets}"
            )
        self.subsets = subsets
        self.subset_size = subset_size
        self.seed = seed
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("generated", [], dist_reduce_fx="cat")

    def update(self, samples: Tensor, *, real: bool) -> None:
        """Add samples [B, ...] as the feature network takes them to one of the two sets."""
        # Flat float32, as torchmetrics lets a rank take part that has no samples at all.
        (self.real if real else self.generated).append(self.extract(samples).float().flatten())

    def compute(self) -> dict[str, Tensor]:
        """float64 scalars: `mean` over subsets, and `std`, their population standard deviation."""
        real, generated = self._in_order(self.real), self._in_order(self.generated)
        if min(len(real), len(generated)) < self.subset_size:
            raise ValueError(
                f"subset_size={self.subset_size} is more than the {len(real)} real or {len(generated)} "
                "generated samples: grade more samples, or set a smaller subset_size"
            )
        generator = torch.Generator().manual_seed(self.seed)

        def draw(pool: Tensor) -> Tensor:
            chosen = torch.randperm(len(pool), generator=generator)[: self.subset_size]
            return pool[chosen.to(pool.device)]

        values = torch.stack([polynomial_mmd(draw(generated), draw(real)) for _ in range(self.subsets)])
        return {"mean": values.mean(), "std": values.std(correction=0)}

    def _in_order(self, gathered: list[Tensor] | Tensor) -> Tensor:
        """Features [N, D] sorted along a fixed direction, in which only equal rows are level."""
        flat = torch.cat(
            [gathered] if isinstance(gathered, Tensor) else [torch.zeros(0, device=self.device), *gathered]
        )
        features = flat.view(-1, self.num_features).double()
        direction = torch.arange(self.num_features, dtype=torch.float64, device=features.device).cos()
        return features[(features * direction).sum(dim=1).argsort()]
