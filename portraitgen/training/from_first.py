"""What the first process has built and filled, told the others, which built the network without memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn

from portraitgen.training.sharding import on_meta


class Shardable(Protocol):
    """What a `Learner` has that sharding needs."""

    network: nn.Module
    frozen_facts: tuple[str, Mapping[str, str]]

    def state_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class OfFirst:
    """Of the first process's network.

    Attributes:
        dtypes: of its parameters.
        buffers: on the CPU.
    """

    dtypes: Mapping[str, torch.dtype]
    buffers: Mapping[str, Tensor]


def take_from_first(strategy: ParallelStrategy, learner: Shardable) -> OfFirst:
    """Tell all what the first process's network is made of, and give them its frozen parts beside it.

    The frozen parts are sent tensor by tensor: a text encoder has gigabytes.
    """
    network, first = learner.network, strategy.global_rank == 0
    assert on_meta(network) is not first, "the first process, and it alone, has the weights"
    # Frozen parts that were drawn at random would differ: the others have drawn nothing for the network.
    beside = [tensor for name, tensor in learner.state_dict().items() if not name.startswith("network.")]
    buffers = {name: buffer.cpu() for name, buffer in network.named_buffers()} if first else {}
    dtypes = {name: parameter.dtype for name, parameter in network.named_parameters()}
    dtypes, buffers, learner.frozen_facts = strategy.broadcast((dtypes, buffers, learner.frozen_facts))
    for tensor in beside:
        sent = tensor.detach().to(strategy.root_device).contiguous()
        torch.distributed.broadcast(sent, src=0)
        tensor.detach().copy_(sent)
    return OfFirst(dtypes, buffers)
