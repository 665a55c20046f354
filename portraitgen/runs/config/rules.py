"""What must hold between the settings of a training run, beyond what each class says of its own arguments."""

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from portraitgen.runs.config.bounds import sought_problems, training_problems
from portraitgen.runs.config.check import ConfigError
from portraitgen.runs.config.targets import did_you_mean, resolve_target
from portraitgen.runs.pretrained import missing_models
from portraitgen.runs.train.rendezvous import launch_problems

FULLY_SHARDED = "portraitgen.training.fsdp.FullySharded"
DEEPSPEED = "portraitgen.training.zero.Zero"

DEEPSPEED_KEYS = (
    "activation_checkpointing",
    "aio",
    "bf16",
    "communication_data_type",
    "dump_state",
    "flops_profiler",
    "fp16",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "gradient_predivide_factor",
    "prescale_gradients",
    "sparse_gradients",
    "steps_per_print",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "zero_optimization",
)
"""Top-level keys of a DeepSpeed configuration; DeepSpeed itself ignores those that it does not know."""


def check_training(config: DictConfig) -> None:
    """Raise a ConfigError that lists what the settings, or this machine, forbid; return if nothing is.

    `config` must have passed `check_config`.
    """
    problems = [*setting_problems(config), *machine_problems(config)]
    if problems:
        raise ConfigError(problems)


def check_settings(config: DictConfig) -> None:
    """As `check_training`, whatever machine this is."""
    problems = [*setting_problems(config)]
    if problems:
        raise ConfigError(problems)


def setting_problems(config: DictConfig) -> Iterator[str]:
    """What cannot work on any machine."""
    yield from _name(config)
    yield from _unread(config)
    yield from _losses(config)
    yield from _batches(config)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    yield from training_problems(settings)
    yield from sought_problems(config.optimized_metric, settings)
    yield from _grading(config)
    if _shards(config) and not can_shard_optimizer(config):
        yield (
            "optimizer: Prodigy estimates its rate from all that trains at once, of which each process has a"
            " part under this strategy: use strategy=ddp, or optimizer=adamw"
        )
    if _uses_deepspeed(config):
        if config.trainer.accelerator == "cpu":
            yield "strategy: DeepSpeed trains on CUDA GPUs only; on a CPU use strategy=ddp"
        yield from _deepspeed_problems(config)


def machine_problems(config: DictConfig) -> Iterator[str]:
    """What cannot work on this one."""
    import torch

    from portraitgen.losses.loss import Loss
    from portraitgen.training.stage import init_files

    if _uses_deepspeed(config) and config.trainer.accelerator != "cpu" and not torch.cuda.is_available():
        yield "strategy: DeepSpeed trains on CUDA GPUs only, and there is none here; use strategy=ddp"
    for place in ("model", "losses"):
        yield from missing_models(config[place], place, models=config.paths.models)
    for name, node in config.losses.items():
        loss = resolve_target(node["_target_"]) if OmegaConf.is_dict(node) and "_target_" in node else None
        if inspect.isclass(loss) and issubclass(loss, Loss):
            for problem in loss.missing_files(node):
                yield f"losses.{name}.{problem}"
    for start, command in init_files(config.stage.get("init_from"), config.stage.get("init_command")):
        if not start.is_file():
            advice = f"make it with: {command}" if command else "set it to a weights file"
            yield f"stage.init_from: {start} does not exist; {advice}"
    yield from launch_problems(os.environ)
    tasks = int(os.environ.get("SLURM_NTASKS", 0))
    devices = config.trainer.devices
    on_cpu = config.trainer.accelerator == "cpu" or not torch.cuda.is_available()
    there = (os.cpu_count() or 1) if on_cpu else torch.cuda.device_count()
    if isinstance(devices, int) and devices > there:
        yield f"trainer.devices: {devices}, but this machine has {there} {'CPU cores' if on_cpu else 'GPUs'}"
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    if in_sweep and not tasks and (devices if isinstance(devices, int) else torch.cuda.device_count()) > 1:
        yield (
            f"trainer.devices: {devices}, but a trial of a local sweep trains in one process; set it to 1, "
            "or start the trials as jobs (hydra/launcher=slurm_a100)"
        )
    started = int(os.environ.get("WORLD_SIZE", 0)) if "TORCHELASTIC_RUN_ID" in os.environ else 0
    used = (1 if on_cpu else there) if devices == "auto" else devices
    if started > 1 and isinstance(used, int) and started != used * config.trainer.num_nodes:
        yield (
            f"trainer.devices: {devices} on each of {config.trainer.num_nodes} nodes, but torchrun started "
            f"{started} processes, which would each train the same run: say how many a node has"
        )
    if tasks > 1 and not started and isinstance(devices, int) and tasks != devices * config.trainer.num_nodes:
        yield (
            f"trainer.devices: {devices} on each of {config.trainer.num_nodes} nodes, but SLURM started "
            f"{tasks} tasks: start one task a GPU (--ntasks-per-node), or use trainer=slurm, which asks SLURM"
        )


def _name(config: DictConfig) -> Iterator[str]:
    """A run lies in a folder of its own below paths.runs, where all of its parts look for it."""
    name = Path(config.name)
    if name.is_absolute() or ".." in name.parts or not name.parts:
        yield (
            f"name: {config.name} leads out of the folder of all runs; give a name such as mine/first, and"
            " say where runs lie by paths.runs=…"
        )


def _unread(config: DictConfig) -> Iterator[str]:
    """Entries of the named groups that name no class: nobody would read them."""
    for group in ("losses", "callbacks", "logger"):
        for name, node in (config[group] or {}).items():
            if node is not None and (not OmegaConf.is_dict(node) or "_target_" not in node):
                others = [other for other in config[group] if other != name]
                guess = did_you_mean(name, others)
                yield f"{group}.{name}: no _target_ names a class, so it has no effect{guess}"
    for name in ("model", "data", "stage", "optimizer", "sampling", "trainer"):
        if not OmegaConf.is_dict(config[name]) or "_target_" not in config[name]:
            yield f"{name}: no _target_; choose an option of the group conf/{name}"


def _losses(config: DictConfig) -> Iterator[str]:
    """Losses that are none, or that look at what the model does not give."""
    from portraitgen.losses.loss import Loss
    from portraitgen.training.generator import Generator

    losses = {name: node for name, node in (config.losses or {}).items() if OmegaConf.is_dict(node)}
    if not losses or "_target_" not in config.model:
        return
    model = resolve_target(config.model["_target_"])
    if not (inspect.isclass(model) and issubclass(model, Generator)):
        yield f"losses: {config.model['_target_']} generates no pictures, so it takes no further losses"
        return
    for name, node in losses.items():
        loss = resolve_target(node["_target_"]) if "_target_" in node else Loss
        if not (inspect.isclass(loss) and issubclass(loss, Loss)):
            yield f"losses.{name}: {node['_target_']} is no loss (a class under portraitgen.losses.loss.Loss)"
            continue
        examples = config.data.get("examples") or {}
        for problem in loss.find_problems(node, examples):
            yield f"losses.{name}: {problem}"
        for needed in loss.needs:
            if needed not in model.by_products:
                given = ", ".join(sorted(model.by_products)) or "nothing beside its prediction"
                yield f"losses.{name}: needs {needed!r} of the network; {model.__name__} gives {given}"


def _grading(config: DictConfig) -> Iterator[str]:
    """What grading while training needs beside its own settings."""
    from portraitgen.training.generator import Generator

    if not (config.callbacks or {}).get("grading"):
        return
    model = resolve_target(config.model["_target_"]) if "_target_" in config.model else Generator
    if not (inspect.isclass(model) and issubclass(model, Generator)):
        yield f"callbacks.grading: {config.model['_target_']} draws no pictures: leave it out (=null)"
    if not config.data.get("val_span") and not config.data.get("val_shards"):
        yield "callbacks.grading: there are no clips to grade: set data.val_span or data.val_shards"
    if not config.callbacks.get("weights"):
        yield "callbacks.grading: callbacks.weights is left out, which writes the best weights: put it back"


def _batches(config: DictConfig) -> Iterator[str]:
    accumulate, batch_size = config.trainer.accumulate_grad_batches, config.data.get("batch_size")
    for key, value in (("trainer.accumulate_grad_batches", accumulate), ("data.batch_size", batch_size)):
        if isinstance(value, int) and value < 1:
            yield f"{key}: {value}, but it must be 1 or more"
            return
    samples, devices = config.data.get("samples_per_epoch"), config.trainer.devices
    if accumulate > 1 and samples and isinstance(devices, int):
        batches = samples // (batch_size * devices * config.trainer.num_nodes)
        if batches % accumulate:
            yield (
                f"data.samples_per_epoch: an epoch is {batches} batches, no multiple of "
                f"trainer.accumulate_grad_batches ({accumulate}): its last step would see fewer samples"
            )


def can_shard_optimizer(config: DictConfig) -> bool:
    """Whether its optimizer works where each process has but a part of what trains."""
    return not str(config.optimizer.get("_target_", "")).startswith("prodigyopt.")


def _shards(config: DictConfig) -> bool:
    """Whether a process has but a part of the weights, or of the optimizer's state."""
    target = config.strategy.get("_target_") if OmegaConf.is_dict(config.strategy) else None
    return target in (DEEPSPEED, FULLY_SHARDED)


def _uses_deepspeed(config: DictConfig) -> bool:
    return OmegaConf.is_dict(config.strategy) and config.strategy.get("_target_") == DEEPSPEED


def _deepspeed_problems(config: DictConfig) -> Iterator[str]:
    """What DeepSpeed would say about its configuration once all processes are up."""
    try:
        from deepspeed.runtime.config import DeepSpeedConfig
    except ModuleNotFoundError:
        yield "strategy: DeepSpeed is not installed: pip install 'portraitgen[deepspeed]'"
        return
    from hydra.utils import instantiate
    from pydantic import ValidationError

    settings = instantiate(config.strategy, _convert_="all").config
    for key in settings:
        if key not in DEEPSPEED_KEYS:
            yield f"strategy.config.{key}: DeepSpeed has no such setting{did_you_mean(key, DEEPSPEED_KEYS)}"
    batch = {
        "train_micro_batch_size_per_gpu": config.data.get("batch_size", 1),
        "gradient_accumulation_steps": config.trainer.accumulate_grad_batches,
    }
    try:
        DeepSpeedConfig({**batch, **settings})
    except ValidationError as error:
        for each in error.errors():
            yield f"strategy: {'.'.join(map(str, each['loc']))}: {each['msg']}"
    except (AssertionError, ValueError) as error:
        yield f"strategy: {error}"
