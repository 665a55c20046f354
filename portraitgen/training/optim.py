"""Parameter groups for the optimizer, and learning-rate schedules that depend on the step alone."""

import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

MakeOptimizer = Callable[[list[dict[str, Any]]], Optimizer]


def build_optimizer(
    make: MakeOptimizer,
    parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr_scale: Mapping[str, float],
) -> Optimizer:
    """The optimizer over those `parameters` that train.

    Vectors and scalars (biases, norm weights, gates) get no weight decay. A parameter whose name matches a
    pattern of `lr_scale` learns at the optimizer's rate times that factor; the first match counts.

    Args:
        make: optimizer class with its settings bound, e.g. `partial(AdamW, lr=1e-4)`.

    Raises:
        ValueError: no parameter trains.
    """
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        scale = next((factor for pattern, factor in lr_scale.items() if fnmatchcase(name, pattern)), 1.0)
        decays = parameter.ndim > 1
        group = groups.setdefault((scale, decays), {"params": [], "name": _group_name(scale, decays)})
        group["params"].append(parameter)
        if not decays:
            group["weight_decay"] = 0.0
    if not groups:
        raise ValueError("no parameter trains: the stage's `train` patterns freeze the whole network")
    optimizer = make(list(groups.values()))
    for (scale, _), group in zip(groups, optimizer.param_groups, strict=True):
        group["lr"] *= scale
    return optimizer


def warmup_constant(optimizer: Optimizer, *, warmup_steps: int) -> LambdaLR:
    """Learning rate that rises linearly over `warmup_steps` optimizer steps and then stays."""
    return LambdaLR(optimizer, lambda step: _warmup(step, warmup_steps))


def warmup_cosine(
    optimizer: Optimizer, *, warmup_steps: int, total_steps: int, final_scale: float = 0.0
) -> LambdaLR:
    """Linear rise over `warmup_steps`, then half a cosine down to `final_scale` of the rate at `total_steps`.

    Raises:
        ValueError: the run is over before the warm-up is.
    """
    if total_steps <= warmup_steps:
        raise ValueError(
            f"lr_scheduler: total_steps ({total_steps}) must exceed warmup_steps ({warmup_steps})"
        )

    def scale(step: int) -> float:
        progress = min(max(step - warmup_steps, 0) / (total_steps - warmup_steps), 1.0)
        cosine = final_scale + (1 - final_scale) * 0.5 * (1 + math.cos(math.pi * progress))
        return _warmup(step, warmup_steps) * cosine

    return LambdaLR(optimizer, scale)


def warmup_cosine_restarts(
    optimizer: Optimizer, *, warmup_steps: int, total_steps: int, cycles: int = 1
) -> LambdaLR:
    """ConsisID's: a linear rise from 0 over `warmup_steps`, then half a cosine down to 0, `cycles` times.

    Diffusers' own; `warmup_cosine` differs in that its first step is not at 0.
    """
    from diffusers.optimization import get_cosine_with_hard_restarts_schedule_with_warmup

    schedule: LambdaLR = get_cosine_with_hard_restarts_schedule_with_warmup(
        optimizer, warmup_steps, total_steps, num_cycles=cycles
    )
    return schedule


def _warmup(step: int, warmup_steps: int) -> float:
    return min((step + 1) / (warmup_steps + 1), 1.0)


def _group_name(scale: float, decays: bool) -> str:
    return f"lr x{scale:g}" + ("" if decays else ", no decay")
