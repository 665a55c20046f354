"""Sets of features of generated and of true clips, by method: what FID, KID, FVD and E-FID are taken of."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import SumMetric

from portraitgen.metrics.frechet import FrechetDistance
from portraitgen.metrics.grader import SetFigure
from portraitgen.metrics.kernel_distance import KernelDistance

BATCH = 2048
"""Features that enter the metrics together: as they come they take a third of what the metrics keep."""


class FeatureSets:
    """Gathers features of each method beside those of the truth, on all processes.

    Args:
        num_features: D.
        kernel_subset: samples in each subset of the kernel distance, or None to leave that out.
    """

    def __init__(self, num_features: int, *, kernel_subset: int | None = None) -> None:
        self.num_features = num_features
        self.kernel_subset = kernel_subset
        self._sets: dict[str, _MethodSets] = {}

    def add(self, method: str, generated: Tensor, real: Tensor, *, missing: int = 0) -> None:
        """Add features [N, D] of a clip and of its true frames; `missing` are samples without features."""
        sets = self._of(method)
        sets.missing.update(missing)
        sets.samples.update(len(generated))
        sets.put(generated, real=False)
        sets.put(real, real=True)

    def compute(self, method: str) -> Mapping[str, SetFigure]:
        """`frechet`, and `kernel` if it is gathered: NaN with the reason where there are too few samples."""
        sets = self._of(method)
        sets.flush(real=False)
        sets.flush(real=True)
        samples, missing = int(sets.samples.compute()), int(sets.missing.compute())
        metrics = {"frechet": sets.frechet} | ({} if sets.kernel is None else {"kernel": sets.kernel})
        figures = {}
        with sets.frechet.sync_context():
            bias = sets.frechet.bias() if sets.frechet.enough else None
        for name, metric in metrics.items():
            try:
                result = metric.compute()
            except ValueError as error:
                figures[name] = SetFigure(float("nan"), samples, missing, str(error))
                continue
            value = result["mean"] if isinstance(result, dict) else result
            figures[name] = SetFigure(
                float(value), samples, missing, bias=bias if name == "frechet" else None
            )
        return figures

    def _of(self, method: str) -> "_MethodSets":
        if method not in self._sets:
            self._sets[method] = _MethodSets(self.num_features, self.kernel_subset)
        return self._sets[method]


class _MethodSets:
    def __init__(self, num_features: int, kernel_subset: int | None) -> None:
        self.frechet = FrechetDistance(_as_they_are, num_features=num_features)
        self.kernel = None
        if kernel_subset is not None:
            self.kernel = KernelDistance(_as_they_are, num_features=num_features, subset_size=kernel_subset)
        self.samples = SumMetric()
        self.missing = SumMetric()
        self._waiting: dict[bool, list[Tensor]] = {False: [], True: []}

    def put(self, features: Tensor, *, real: bool) -> None:
        """Take features [N, D]; many enter the metrics together, since each entry is a product [D, D]."""
        self._waiting[real].append(features)
        if sum(map(len, self._waiting[real])) >= BATCH:
            self.flush(real=real)

    def flush(self, *, real: bool) -> None:
        """Bring what waits into the metrics."""
        features = torch.cat(self._waiting[real]) if self._waiting[real] else None
        self._waiting[real].clear()
        if features is None or not len(features):
            return
        self.frechet.update(features, real=real)
        if self.kernel is not None:
            self.kernel.update(features, real=real)


def _as_they_are(features: Tensor) -> Tensor:
    return features
