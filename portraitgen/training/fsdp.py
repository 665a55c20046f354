"""FSDP2 through Lightning: weights, gradients, optimizer and averages are spread over all processes."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from portraitgen.nn.pretrained import bases
from portraitgen.training.from_first import Shardable, take_from_first
from portraitgen.training.sharding import (
    cast_each,
    copies,
    fill,
    is_sharded,
    local,
    set_buffers,
    shard,
    sharded_like,
)

# It warns of operations in place on what a block returns, which no network here does.
warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")


class FullySharded(ModelParallelStrategy):
    """Shards the network of a `Learner`, block by block; what is frozen beside it is whole in each process.

    The first process builds and fills the network in the memory of its machine; the others build it on the
    meta device and are sent their parts. A process never holds more of it on its device than its part and
    the blocks that are being computed.

    A checkpoint is one file of whole tensors, the same as of one process or of DDP: a run can go on under
    another strategy, or on another number of processes (`allow_config_change=true`). The first process
    collects it tensor by tensor in the memory of its machine.

    Args:
        reshard_after_forward: whether a block's parameters are dropped between its forward and its backward
            pass (least memory), or kept.
        process_group_backend: "nccl" or "gloo"; None: as the device needs.
    """

    def __init__(
        self, *, reshard_after_forward: bool = True, process_group_backend: str | None = None
    ) -> None:
        super().__init__(tensor_parallel_size=1, process_group_backend=process_group_backend)
        self.reshard_after_forward = reshard_after_forward

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, learner: Shardable) -> None:
        """Shard the network, then fill it with what the first process has."""
        network = learner.network
        if is_sharded(network):
            return
        given = take_from_first(self, learner)
        values: dict[str, Tensor] | None = None
        if self.global_rank == 0:
            values = {name: parameter.detach() for name, parameter in network.named_parameters()}
            for part, base in bases(network).items():  # it would keep their memory
                network.get_submodule(part).portraitgen_base = replace(base, _tensors={})  # type: ignore[assignment]
            network.to("meta")
        cast_each(network, given.dtypes)
        shard(network, self.device_mesh["data_parallel"], reshard_after_forward=self.reshard_after_forward)
        network.to_empty(device=self.root_device)
        set_buffers(network, given.buffers, self.root_device)
        fill(network, values)
        # Whatever of it is called first, the network is the root of what is sharded.
        cast(FSDPModule, network)._get_fsdp_state()._lazy_init()

    # Checkpoints are whole: see the class.

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return Strategy.optimizer_state(self, optimizer)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        gathered = copies(checkpoint, keep=self.is_global_zero)
        Strategy.save_checkpoint(self, gathered, filepath, storage_options)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own, saved = self.lightning_module.state_dict(), checkpoint["state_dict"]
        if strict and (differing := sorted(own.keys() ^ saved.keys())):
            where = "the checkpoint" if differing[0] in saved else "the model"
            raise ValueError(
                f"{len(differing)} names differ, {differing[0]} among them: it is only in {where}"
            )
        with torch.no_grad():
            for name in own.keys() & saved.keys():
                tensor = saved[name]
                local(own[name]).copy_(local(sharded_like(tensor, own[name])))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            numbers = [number for group in saved["param_groups"] for number in group["params"]]
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            of_number = dict(zip(numbers, parameters, strict=True))
            state = {
                number: {
                    name: sharded_like(value, of_number[number])
                    if isinstance(value, Tensor) and value.shape == of_number[number].shape
                    else value
                    for name, value in values.items()
                }
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})
