"""Exponential moving average of the weights that train, used for validation, samples and exported weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from portraitgen.training.sharding import by_zero, local, sharded_like
from portraitgen.training.trainer_state import find_callback, optimizer_stepped


class EMA(Callback):
    """Keeps float32 averages of the trained parameters and puts them in their place while evaluating.

    After optimizer step n (from 0) the average moves by 1 − min(decay, (1 + n) / (10 + n)) towards the
    weights, so that a short run averages too. Before the first update nothing is exchanged. Frozen
    parameters and buffers have no average: they cost no memory.

    Args:
        decay: limit of the decay, 0 ≤ decay < 1; 0.9999 averages over the last 10 000 steps or so.

    Raises:
        ValueError: `decay` is not in that range.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.ema.decay is {decay}: it must be in [0, 1)")
        self.decay = decay
        self.updates = 0
        self._averages: dict[str, Tensor] = {}
        self._parameters: list[nn.Parameter] = []
        self._parts: list[Tensor] = []
        self._weights: list[Tensor] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights, or from the checkpoint's averages.

        Raises:
            ValueError: the checkpoint's averages are of other parameters.
        """
        trained = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        if self._averages and self._averages.keys() != trained.keys():
            names = sorted(self._averages.keys() ^ trained.keys())
            raise ValueError(
                f"the checkpoint's averages are not those of what trains: {', '.join(names[:8])}"
            )
        self._averages = {
            name: (
                _placed(self._averages[name], parameter) if name in self._averages else _part(parameter)
            ).to(torch.float32, copy=True)
            for name, parameter in trained.items()
        }
        self._parameters = list(trained.values())
        self._parts = list(map(local, self._averages.values()))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not optimizer_stepped(trainer):
            return
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():  # to take a part of a sharded tensor is no operation then
            weights = [local(parameter).float() for parameter in self._parameters]
            torch._foreach_lerp_(self._parts, weights, 1 - decay)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "averages": self._averages}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates = state_dict["updates"]
        self._averages = state_dict["averages"]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._exchange()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters hold the averages inside the block."""
        self._exchange()
        try:
            yield
        finally:
            self._restore()

    def _exchange(self) -> None:
        """Point the parameters at the averages; nothing is copied when they are float32."""
        if self.updates == 0 or not self._parameters:
            return
        self._weights = [_taken(parameter) for parameter in self._parameters]
        for parameter, average in zip(self._parameters, self._averages.values(), strict=True):
            _put(parameter, average.to(parameter.dtype))

    def _restore(self) -> None:
        if self._weights is not None:
            for parameter, weight in zip(self._parameters, self._weights, strict=True):
                _put(parameter, weight)
            self._weights = None


def _part(parameter: nn.Parameter) -> Tensor:
    """The weights as this process holds them; FSDP's know that they are part of a whole."""
    return local(parameter).detach() if by_zero(parameter) else parameter.detach()


def _placed(average: Tensor, parameter: nn.Parameter) -> Tensor:
    """An average of a checkpoint, on the device of its parameter; ZeRO's hold the part of each process."""
    return average.to(local(parameter).device) if by_zero(parameter) else sharded_like(average, parameter)


def _taken(parameter: nn.Parameter) -> Tensor:
    """The weights, to be put back later: of a sharded parameter a copy."""
    if by_zero(parameter) or isinstance(parameter, DTensor):
        return _part(parameter).clone()
    return parameter.data


def _put(parameter: nn.Parameter, values: Tensor) -> None:
    """Sharded weights are gathered from the memory that the strategy knows, so a part is written in place."""
    if by_zero(parameter):
        local(parameter).copy_(values)
        parameter.partition()  # type: ignore[attr-defined]  # small ones stay gathered, of what was there before
    elif isinstance(parameter, DTensor):
        local(parameter).detach().copy_(local(values))
    else:
        parameter.data = values


@contextmanager
def averaged_weights(trainer: Trainer) -> Iterator[None]:
    """Use the averages inside the block if the trainer has an EMA callback, else the weights as they are."""
    ema = find_callback(trainer, EMA)
    if ema is None:
        yield
        return
    with ema.in_place():
        yield
