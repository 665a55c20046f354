"""Mean over videos of figures that a video may lack: missing ones are counted, never taken as 0."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class VideoMean(Metric):
    """Means over all videos of all batches and ranks, whatever the batch size and the order.

    Args:
        names: of the figures, as `compute` returns them.
    """

    is_differentiable = False
    full_state_update = False

    total: Tensor
    count: Tensor
    missing: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.add_state("total", torch.zeros(len(names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(names), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("missing", torch.zeros(len(names), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, scores: Mapping[str, float]) -> None:
        """Count one video; a figure that it lacks is NaN."""
        values = torch.tensor(
            [scores[name] for name in self.names], dtype=torch.float64, device=self.total.device
        )
        present = ~values.isnan()
        self.total += torch.where(present, values, 0.0)
        self.count += present
        self.missing += ~present

    def compute(self) -> dict[str, Tensor]:
        """By name the mean over the videos that have the figure, float64, NaN when none has.

        Under `<name>_missing` the number of videos without it, int64.
        """
        means = dict(zip(self.names, self.total / self.count, strict=True))
        missing = (f"{name}_missing" for name in self.names)
        return {**means, **dict(zip(missing, self.missing, strict=True))}
