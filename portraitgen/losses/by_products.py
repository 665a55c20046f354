"""What a network gives beside its prediction, for losses to look at."""

from collections.abc import Mapping

from torch import Tensor

ByProducts = Mapping[str, Tensor | Mapping[str, Tensor]]
"""By name a tensor, or one a layer by the layer's name."""


def attached_zero(prediction: Tensor, by_products: ByProducts) -> Tensor:
    """0 whose gradient, zero as well, reaches all that made these tensors, whatever they hold.

    A process whose batch has nothing for a loss must still give all parameters a gradient: DDP waits for
    them. (0 · prediction would be no number where the prediction is infinite.)
    """
    zero = prediction.flatten()[:0].float().sum()
    for each in by_products.values():
        for tensor in each.values() if isinstance(each, Mapping) else (each,):
            zero = zero + tensor.flatten()[:0].float().sum()
    return zero
