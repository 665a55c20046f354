"""A mean in two parts, so that rows of several batches and processes are put together without a bias."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """Σ total / Σ count over all batches and processes that are put together.

    Attributes:
        total: scalar; with a gradient where it is minimised.
        count: scalar ≥ 0 of the same dtype, without one. 0: this batch has nothing to say.
    """

    total: Tensor
    count: Tensor

    @classmethod
    def over(cls, values: Tensor, counted: Tensor | None = None) -> "Mean":
        """Over the elements of `values`, or over those where `counted` (bool, of their shape) is true.

        The others must still be finite where a gradient is wanted: 0 times their gradient is taken.
        """
        values = values.float()
        if counted is None:
            return cls(values.sum(), torch.full_like(values.detach().sum(), values.numel()))
        return cls(torch.where(counted, values, 0).sum(), counted.sum().to(values.dtype))

    @classmethod
    def of_nothing(cls, like: Tensor) -> "Mean":
        """Total and count 0, on the device of `like`."""
        zero = torch.zeros((), device=like.device)
        return cls(zero, zero)

    def pair(self) -> Tensor:
        """`[total, count]` without gradient."""
        return torch.stack([self.total.detach(), self.count.detach()])
