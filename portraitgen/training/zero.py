"""DeepSpeed's ZeRO through Lightning: optimizer, gradients and, at stage 3, weights are sharded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from portraitgen.training.from_first import Shardable, take_from_first
from portraitgen.training.sharding import cast_each, require_unshared, set_buffers


class AutocastPrecision(DeepSpeedPrecision):
    """bf16-mixed as under every other strategy: weights as they are, computation by autocast.

    DeepSpeed's own casts the network, and with it all that a forward pass does not cast itself.
    """

    def __init__(self) -> None:
        super().__init__("32-true")  # of DeepSpeed's settings

    def convert_input(self, data: Any) -> Any:
        return data

    def forward_context(self) -> Any:
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.autocast(kind, torch.bfloat16, cache_enabled=False)


class Zero(DeepSpeedStrategy):
    """ZeRO, with what is frozen beside the network left whole and in its own precision.

    Arguments are those of Lightning's `DeepSpeedStrategy`.
    """

    _has_room = False

    def shard(self, learner: Shardable) -> None:
        """At stage 3, make room for the weights of the first process, which alone has built the network.

        DeepSpeed then takes one parameter after the other, sends the first process's to all and keeps a part
        in each. Until its turn a parameter of the others is memory that was asked for and never written to,
        which takes none of the machine's.
        """
        if not self.zero_stage_3 or self._has_room:
            return
        network = learner.network
        require_unshared(network)
        given = take_from_first(self, learner)
        if self.global_rank:
            cast_each(network, given.dtypes)
            network.to_empty(device="cpu")
            set_buffers(network, given.buffers, torch.device("cpu"))
        self._has_room = True

    def gradient_norm(self) -> Tensor:
        """Norm of all gradients of the last step, before clipping."""
        return torch.as_tensor(self.deepspeed_engine.get_global_grad_norm())

    def optimizer_step(
        self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any
    ) -> Any:
        """A step; at stage 3 with it ends what DeepSpeed takes for the order of modules in a step.

        It noted down all that followed, up to the next step. Had clips been drawn, that was thousands of
        passes, all of which it looked through behind each module of the next step and of its clips.
        """
        made = super().optimizer_step(optimizer, closure, model, **kwargs)
        if self.zero_stage_3:
            order = self.deepspeed_engine.optimizer.parameter_offload.get_param_coordinator()
            if order.is_record_trace():
                order.reset_step()
        return made

    @property
    def precision_plugin(self) -> Any:
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, plugin: Any) -> None:
        if getattr(plugin, "precision", None) == "bf16-mixed":
            plugin = AutocastPrecision()
        self._precision_plugin = plugin

    def _format_config(self) -> None:
        super()._format_config()
        assert isinstance(self.config, dict)
        # With offload_optimizer it would ask for an Adam of its own, which is compiled at the start.
        self.config.setdefault("zero_force_ds_cpu_optimizer", False)

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> Any:
        with _network_alone(model):
            engine, sharded = super()._setup_model_and_optimizer(model, optimizer, lr_scheduler)
        if self.zero_stage_3:
            # After each step it takes whatever it finds for sharded, and fails at what is not.
            engine.optimizer.parameter_offload.module = model.network
        model.to(self.root_device)
        return engine, sharded


@contextmanager
def _network_alone(model: nn.Module) -> Iterator[None]:
    """Inside the block the network is the only child: DeepSpeed shards and casts whatever it finds."""
    children = dict(model._modules)
    for name in children:
        if name != "network":
            del model._modules[name]
    try:
        yield
    finally:
        model._modules.clear()
        model._modules.update(children)
