"""Where a strategy keeps the bytes of a training: what of it lies on each device."""

from dataclasses import dataclass

import torch
from torch import nn

from portraitgen.training.sharding import owned_parameters

BUCKET = 2 * 200_000_000
"""Elements that DeepSpeed gathers and reduces at once, in conf/strategy."""
LIVE = 1_000_000_000
"""Elements that ZeRO-3 keeps gathered, at most (`stage3_max_live_parameters`)."""
RESERVE = 0.92
"""Of a device's memory that can be used: contexts, libraries and what lies between blocks take the rest."""


@dataclass(frozen=True, slots=True)
class States:
    """Bytes of the whole network, before anything is shared out.

    Attributes:
        weights: all parameters and buffers.
        gradients, optimizer, averages: of what trains.
        largest_unit: weights of the largest block that FSDP gathers at once.
        element: of a weight that trains.
    """

    weights: int
    gradients: int
    optimizer: int
    averages: int
    largest_unit: int
    element: int


def states_of(network: nn.Module, *, moments: int, averaged: bool) -> States:
    """Of a network whose stage is set, on any device.

    Args:
        moments: numbers that the optimizer keeps for each that trains.
        averaged: whether there is an EMA, in float32.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in trained)
    own = sum(map(_bytes, trained))
    return States(
        weights=sum(map(_bytes, [*network.parameters(), *network.buffers()])),
        gradients=own,
        optimizer=moments * own,
        averages=4 * count if averaged else 0,
        largest_unit=max(sum(map(_bytes, parameters)) for _, parameters in owned_parameters(network)),
        element=max((each.element_size() for each in trained), default=4),
    )


def on_device(states: States, strategy: str, processes: int) -> dict[str, float]:
    """Bytes on each device, by what they are; activations come on top.

    Args:
        strategy: name of a file of conf/strategy.
    """
    share = 1 / processes
    one = {name: getattr(states, name) for name in ("weights", "gradients", "optimizer", "averages")}
    if processes == 1 or strategy in ("auto", "ddp"):
        return one
    if strategy == "fsdp":
        sharded = {name: value * share for name, value in one.items()}
        # The block at work and the one that is gathered ahead, and the gradients of the first.
        return {**sharded, "gathered": 3.0 * states.largest_unit}
    buckets = min(BUCKET * states.element, 2 * states.gradients)
    if strategy == "deepspeed_zero1":
        return {**one, "optimizer": states.optimizer * share, "buckets": buckets}
    sharded = {**one, "gradients": states.gradients * share, "optimizer": states.optimizer * share}
    if strategy == "deepspeed_zero2":
        return {**sharded, "buckets": buckets}
    if strategy == "deepspeed_zero3":
        gathered = min(LIVE * states.element, states.weights)
        parts = {"weights": states.weights * share, "averages": states.averages * share}
        return {**sharded, **parts, "gathered": gathered, "buckets": buckets}
    raise ValueError(f"strategy={strategy}: nothing is known of where it keeps what")


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
