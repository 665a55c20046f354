"""`train.py … plan=true`: what a run would need and take, before anything is queued, and what to change.

The network is built on the meta device and one pass of it run without memory (`training/cost.py`); where each
strategy keeps what is arithmetic (`training/placement.py`). Nothing is read but the configuration, and of
pretrained parts beside the network, which are there, how large their files are.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from portraitgen.nn.pretrained import weight_files
from portraitgen.runs.config.rules import can_shard_optimizer
from portraitgen.training.accelerators import ACCELERATORS, GIGA, TERA
from portraitgen.training.cost import PassCost, StepSizes, cost_of_pass, without_memory
from portraitgen.training.placement import RESERVE, States, on_device, states_of

STRATEGIES = ("ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3", "fsdp")


@dataclass(frozen=True)
class Plan:
    """What a run needs.

    Attributes:
        parameters, trained: numbers of the network.
        states: bytes of the whole network.
        passes: cost of one pass, by whether activations are recomputed.
        beside: bytes of frozen parts beside the network, by their name; None: their files are not there.
    """

    parameters: int
    trained: int
    states: States
    passes: Mapping[bool, PassCost]
    beside: Mapping[str, int | None]


def plan(config: DictConfig) -> None:
    """Print the plan of a configuration that has passed all checks.

    Raises:
        ValueError: it does not say how large what is trained on is, or names an unknown accelerator.
    """
    if config.plan_accelerator not in ACCELERATORS:
        raise ValueError(
            f"plan_accelerator={config.plan_accelerator}: choose one of {', '.join(ACCELERATORS)}"
        )
    for line in plan_lines(config, make_plan(config)):
        print(line)


def make_plan(config: DictConfig) -> Plan:
    """Build the network without memory and run one pass of it, with and without gradient checkpointing."""
    with torch.device("meta"):
        network: Any = instantiate(config.model.network, _convert_="all")
    instantiate(config.stage, _convert_="all").freeze(network)
    ema = (config.callbacks or {}).get("ema")
    states = states_of(network, moments=_moments(config), averaged=bool(ema))
    parameters = list(network.parameters())
    sizes = step_sizes(config, network)
    autocast = torch.bfloat16 if config.trainer.precision == "bf16-mixed" else None
    passes = {}
    with without_memory(network):
        for recompute in (False, True):
            network.set_gradient_checkpointing(recompute)
            passes[recompute] = cost_of_pass(network, lambda: network.rehearse(sizes), autocast=autocast)
    return Plan(
        parameters=sum(each.numel() for each in parameters),
        trained=sum(each.numel() for each in parameters if each.requires_grad),
        states=states,
        passes=passes,
        beside=dict(_beside(config)),
    )


def step_sizes(config: DictConfig, network: nn.Module) -> StepSizes:
    """What a batch of this configuration is to the network.

    Raises:
        ValueError: the sizes of pictures are those of the shards, which nobody has looked at.
    """
    examples, codec = config.data.examples, config.model.codec
    kind: Any = get_class(codec["_target_"])
    factor = codec.get("factor", kind.factor)
    time_factor = codec.get("time_factor", kind.time_factor)
    if examples.get("pose_size"):
        height, width = _sides(examples.pose_size)  # drawings are 8 times the latents
        height, width = height // 8, width // 8
    elif examples.get("size"):
        height, width = (side // factor for side in _sides(examples.size))
    elif getattr(network, "native_size", None):
        height, width = network.native_size  # type: ignore[misc]
    else:
        raise ValueError(
            "plan: the pictures are of the size of the shards, which is not looked at: say it by"
            " data.examples.size=[480,832]"
        )
    frames = examples.get("clip_frames") or 1
    return StepSizes(
        batch=config.data.batch_size,
        frames=1 + (frames - 1) // time_factor,
        height=height,
        width=width,
        people=examples.get("people") or 1,
        words=config.model.get("text_tokens"),
    )


def plan_lines(config: DictConfig, made: Plan) -> Iterator[str]:
    """The plan in words and tables."""
    processes, name = process_count(config), strategy_name(config)
    recompute = bool(config.model.get("gradient_checkpointing", False))
    states, cost = made.states, made.passes[recompute]
    accelerator = ACCELERATORS[config.plan_accelerator]
    beside = sum(size for size in made.beside.values() if size)
    yield f"{config.name}: {processes} x {config.plan_accelerator}, strategy={name}"
    yield f"  parameters     {made.parameters:,}, of which {made.trained:,} train"
    yield f"  weights        {_gb(states.weights)}   gradients {_gb(states.gradients)}"
    yield f"  optimizer      {_gb(states.optimizer)}   averages (EMA) {_gb(states.averages)}"
    for on, each in made.passes.items():
        used = "  (this run)" if on is recompute else ""
        yield (
            f"  activations    {_gb(each.peak)}   {each.flops / TERA:.4g} TFLOP a pass, gradient"
            f" checkpointing {'on' if on else 'off'}{used}"
        )
    unknown = [part for part, size in made.beside.items() if size is None]
    yield f"  frozen beside  {_gb(beside)}" + (
        f"; not there, not counted: {', '.join(unknown)}" if unknown else ""
    )
    accumulate = config.trainer.accumulate_grad_batches
    flops = cost.flops * accumulate
    rate = accelerator.full if str(config.trainer.precision) in ("32-true", "32") else accelerator.half
    seconds = flops / (rate * config.plan_utilisation)
    samples = config.data.batch_size * accumulate * processes
    yield (
        f"  a step         {flops / TERA:.4g} TFLOP a device, {samples} samples; expected {seconds:.3g} s at"
        f" {config.plan_utilisation:.0%} of {rate / TERA:.4g} TFLOP/s, without loading, encoding and waiting"
    )
    yield f"memory on each device, of {accelerator.memory / GIGA:.0f} GB:"
    limit, fits = RESERVE * accelerator.memory, []
    may_shard = can_shard_optimizer(config)
    for strategy in dict.fromkeys([name, *(STRATEGIES if may_shard else ("ddp",))]):
        for on in dict.fromkeys([recompute, True, False]):
            needed = device_bytes(made, strategy, processes, recompute=on)
            enough = needed <= limit
            this = strategy == name and on is recompute
            if enough:
                fits.append((strategy, on))
            yield (
                f"  {'>' if this else ' '} {strategy:16} checkpointing {'on ' if on else 'off'}"
                f"  {_gb(needed)}  {'fits' if enough else 'too much'}"
            )
    if not may_shard:
        kind = config.optimizer["_target_"].rpartition(".")[2]
        yield f"  (no others: {kind} needs all that trains in each process)"
    yield from _advice(config, made, fits, (name, recompute), limit)


def device_bytes(made: Plan, strategy: str, processes: int, *, recompute: bool) -> float:
    """Most bytes on a device during a step."""
    parts = on_device(made.states, strategy, processes)
    cost, beside = made.passes[recompute], sum(size for size in made.beside.values() if size)
    whole = parts["gradients"] == made.states.gradients
    # Where gradients are whole they come one by one while activations go.
    during = cost.peak_with_gradients if whole else cost.peak + parts["gradients"]
    # An optimizer that works on all parameters at once makes as much again as it steps through.
    at_step = parts["gradients"] + parts["optimizer"] / 2
    states = sum(size for part, size in parts.items() if part != "gradients")
    return states + beside + max(during, at_step)


def process_count(config: DictConfig) -> int:
    """Processes of all nodes; where `trainer.devices` is "auto" or -1, a node counts as one."""
    devices = config.trainer.devices
    if OmegaConf.is_list(devices):
        on_node = len(devices)
    else:
        on_node = devices if isinstance(devices, int) and devices > 0 else 1
    return on_node * int(config.trainer.num_nodes)


def strategy_name(config: DictConfig) -> str:
    """As in conf/strategy."""
    if not OmegaConf.is_dict(config.strategy):
        return str(config.strategy)
    kind = config.strategy["_target_"].rpartition(".")[2]
    names = {"DDPStrategy": "ddp", "FullySharded": "fsdp"}
    return names.get(kind) or f"deepspeed_zero{config.strategy.get('stage', 2)}"


def _advice(
    config: DictConfig, made: Plan, fits: list[tuple[str, bool]], chosen: tuple[str, bool], limit: float
) -> Iterator[str]:
    if chosen in fits:
        yield "it fits"
        return
    if fits:
        order = (chosen[0], *STRATEGIES)  # "auto" is none of them
        strategy, recompute = min(fits, key=lambda way: (way[1] is not chosen[1], order.index(way[0])))
        changes = [f"strategy={strategy}"] if strategy != chosen[0] else []
        if recompute is not chosen[1]:
            changes.append(f"model.gradient_checkpointing={str(recompute).lower()}")
        yield f"it does not fit: set {' '.join(changes)}"
        return
    batch = config.data.batch_size
    if batch > 1:
        fewer = f"data.batch_size={batch // 2} trainer.accumulate_grad_batches="
        yield f"it does not fit: try {fewer}{2 * config.trainer.accumulate_grad_batches}"
        return
    if not can_shard_optimizer(config):
        yield "it does not fit: take optimizer=adamw, with which weights and states can be shared out"
        return
    least = device_bytes(made, "fsdp", 10**6, recompute=True)
    if least > limit:
        yield (
            f"it fits under no strategy, however many processes share it: one sample needs {_gb(least)}. Show"
            " less at once (data.examples.size, data.examples.clip_frames), or take a larger accelerator"
        )
    else:
        enough = next(n for n in range(1, 10**6) if device_bytes(made, "fsdp", n, recompute=True) <= limit)
        yield f"it does not fit: take {enough} processes with strategy=fsdp model.gradient_checkpointing=true"


def _moments(config: DictConfig) -> int:
    """Numbers that the optimizer keeps for each that it trains, as it does for a thousand."""
    parameter = nn.Parameter(torch.zeros(1000))
    with contextlib.redirect_stdout(None):  # some greet
        optimizer = instantiate(config.optimizer, _convert_="all")([parameter])
    parameter.grad = torch.ones(1000)
    optimizer.step()
    kept = [each for each in optimizer.state[parameter].values() if isinstance(each, torch.Tensor)]
    return sum(each.numel() for each in kept) // 1000


def _beside(config: DictConfig) -> Iterator[tuple[str, int | None]]:
    """Pretrained parts of the model but its network: name → bytes of their files."""
    for name, node in config.model.items():
        if name != "network":
            yield from _pretrained(str(name), node)


def _pretrained(name: str, node: Any) -> Iterator[tuple[str, int | None]]:
    if OmegaConf.is_list(node):
        for index, each in enumerate(node):
            yield from _pretrained(f"{name}.{index}", each)
    if not OmegaConf.is_dict(node):
        return
    if str(node.get("_target_", "")).endswith(".from_pretrained"):
        folder = node.get("pretrained_model_name_or_path") or node.get("path") or ""
        place = Path(folder, node.get("subfolder") or "")
        try:
            yield name, sum(file.stat().st_size for file in weight_files(place, node.get("variant")))
        except (ValueError, OSError):
            yield name, None
        return
    for key, child in node.items():
        yield from _pretrained(f"{name}.{key}", child)


def _sides(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _gb(size: float) -> str:
    return f"{size / GIGA:8.2f} GB" if size >= 1e7 else f"{size / 1e6:8.3f} MB"
