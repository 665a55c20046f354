"""Weights that are spread over processes: which modules are gathered together, and whole tensors of shards.

`torch.distributed.fsdp.fully_shard` (FSDP2) replaces each parameter by a DTensor of which every process holds
an equal part along the first axis. A module that is sharded gathers its parameters when its forward begins
and drops them behind it, so the unit of sharding is a block: what diffusers lists as `_no_split_modules`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


def sharded_units(network: nn.Module) -> list[nn.Module]:
    """What is gathered at once, innermost first: blocks, each child of the network, the network itself.

    Blocks are the modules of the classes that a module around them lists in `_no_split_modules`, as models of
    diffusers do.
    """
    names = {name for each in network.modules() for name in getattr(each, "_no_split_modules", None) or ()}
    blocks = [each for each in network.modules() if type(each).__name__ in names]
    children = [each for each in network.children() if each not in blocks]
    # modules() names the outer ones first; a parameter belongs to the innermost unit that holds it.
    return [*reversed(blocks), *children, network]


def shard(network: nn.Module, mesh: DeviceMesh, *, reshard_after_forward: bool = True) -> None:
    """Shard the parameters of `network` over the processes of `mesh`, in place.

    A method that reads parameters without a forward call around it gathers them too, if its class lists it in
    `gathered_for`.

    Raises:
        ValueError: a unit has trained parameters of several precisions, whose gradients are reduced together;
            or two modules share a parameter.
    """
    _require_shardable(network)
    for unit in sharded_units(network):
        fully_shard(unit, mesh=mesh, reshard_after_forward=reshard_after_forward)
        for method in getattr(unit, "gathered_for", ()):
            register_fsdp_forward_method(unit, method)


def by_zero(tensor: Tensor) -> bool:
    """Whether DeepSpeed's ZeRO-3 has sharded a parameter: flat, `ds_tensor` is the part of this process."""
    return hasattr(tensor, "ds_tensor")


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory: all of it, where it is not sharded."""
    if by_zero(tensor):
        return tensor.ds_tensor.data  # type: ignore[attr-defined, no-any-return]
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, sharded as `like` is: each takes its part."""
    if not isinstance(like, DTensor):
        return tensor.to(like.device)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


class Copies(dict[str, Any]):
    """Of values whose tensors lie in host memory and which nobody else writes to."""


def copies(values: Mapping[str, Any], *, keep: bool) -> Copies:
    """`values` (nested dicts and lists) with whole copies on the CPU in the place of all tensors.

    Every process must call it. Of sharded ones one after the other is gathered.

    Args:
        keep: whether this process wants them; where not, an empty tensor stands for each.
    """
    return Copies({key: _copy(value, keep=keep) for key, value in values.items()})


def _copy(value: Any, *, keep: bool) -> Any:
    if isinstance(value, Tensor) and by_zero(value):
        import deepspeed

        with deepspeed.zero.GatheredParameters([value]):
            return _own(value) if keep else value.new_empty(0)
    if isinstance(value, DTensor):
        gathered = value.full_tensor()
        return _own(gathered) if keep else gathered.new_empty(0)
    if isinstance(value, Tensor):
        return _own(value) if keep else value.new_empty(0)
    if isinstance(value, Mapping):
        return {key: _copy(each, keep=keep) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(each, keep=keep) for each in value)
    return value


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def fill(network: nn.Module, values: Mapping[str, Tensor] | None) -> None:
    """Write whole tensors into the sharded parameters of `network`; the first process has them.

    Args:
        values: of all parameters, by name; None in the other processes.
    """
    for name, parameter in network.named_parameters():
        if values is None:
            source = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        else:
            source = values[name].to(parameter.device, parameter.dtype)
        assert isinstance(parameter, DTensor)
        part = distribute_tensor(source, parameter.device_mesh, parameter.placements)
        local(parameter.detach()).copy_(local(part))


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` has been called on it."""
    return isinstance(module, FSDPModule)


def weights_are_shared(network: nn.Module) -> bool:
    """Whether each process has but a part of the weights, so that a forward takes all of them."""
    return is_sharded(network) or any(map(by_zero, network.parameters()))


def on_meta(module: nn.Module) -> bool:
    """Whether it was built on the meta device, without memory."""
    return any(parameter.is_meta for parameter in module.parameters())


def set_buffers(module: nn.Module, buffers: Mapping[str, Tensor], device: torch.device) -> None:
    """Give `module` these buffers; which of them are saved stays as it is."""
    for name, value in buffers.items():
        owner, _, leaf = name.rpartition(".")
        module.get_submodule(owner)._buffers[leaf] = value.to(device)


def cast_each(network: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Give each parameter its precision."""
    for name, parameter in network.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


def _require_shardable(network: nn.Module) -> None:
    require_unshared(network)
    for unit, parameters in owned_parameters(network):
        found = {parameter.dtype for parameter in parameters if parameter.requires_grad}
        if len(found) > 1:
            kinds = ", ".join(sorted(str(each).removeprefix("torch.") for each in found))
            raise ValueError(
                f"strategy: FSDP reduces the gradients of a {type(unit).__name__} together, but it trains"
                f" parameters in {kinds}: train them in one precision (network.base.dtype: float32)"
            )


def require_unshared(network: nn.Module) -> None:
    """ValueError if two modules have one parameter: built without memory and then filled it would be two."""
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    once = {name for name, _ in network.named_parameters()}
    shared = [name for name in names if name not in once]
    if shared:
        raise ValueError(f"strategy: {shared[0]} is shared by two modules, which cannot be sharded")


def owned_parameters(network: nn.Module) -> Iterator[tuple[nn.Module, list[nn.Parameter]]]:
    """Each unit with the parameters that are gathered with it."""
    taken: set[nn.Parameter] = set()
    for unit in sharded_units(network):
        own = [parameter for parameter in unit.parameters() if parameter not in taken]
        taken.update(own)
        yield unit, own
