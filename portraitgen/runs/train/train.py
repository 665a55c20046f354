"""Train one stage: from a composed configuration to a run directory with weights."""

import logging
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from portraitgen.media.files import writable_folder
from portraitgen.runs.config.check import check_config
from portraitgen.runs.config.rules import DEEPSPEED, FULLY_SHARDED, check_settings, check_training
from portraitgen.runs.config.schema import process_rank
from portraitgen.runs.config.sought import is_graded, optimized_metrics
from portraitgen.runs.config.systems import system_of
from portraitgen.runs.config.threads import share_threads
from portraitgen.runs.secrets import without_secrets
from portraitgen.runs.train.rendezvous import meet
from portraitgen.runs.train.rundir import RunDirectory, describe_commit

if TYPE_CHECKING:
    from portraitgen.training.checkpoint import Resume
    from portraitgen.training.preemption import Preemption

log = logging.getLogger(__name__)


def train(config: DictConfig) -> float | tuple[float, ...] | None:
    """Run `config` to its end, from its last checkpoint if it has one; or, with `plan`, say what that needs.

    Returns:
        The last value of the figure that `config.optimized_metric` names, or of each of several.

    Raises:
        ValueError: the configuration is wrong, the run was started with other settings, the data cannot be
            used, or weights to start from are missing.
    """
    check_config(config)
    if config.plan:
        from portraitgen.runs.train.plan import plan

        check_settings(config)
        plan(config)
        return None
    check_training(config)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    run = RunDirectory(Path(config.paths.runs, config.name))
    if process_rank() == 0:
        writable_folder(run.folder)
    preemption = instantiate((config.callbacks or {}).get("preemption"), _convert_="all")
    with preemption.watching(until_exit=_is_alone()) if preemption else nullcontext():
        meet()
        resume = run.find_resume()
        changes = run.changes(settings, allowed=config.allow_config_change) if resume is not None else []
        if resume is not None and 0 < config.trainer.max_steps <= resume.step:
            log.info("nothing to do: %s has trained for %d steps", run.folder, resume.step)
        else:
            _fit(config, settings, run, resume, preemption, changes)
    values = [run.last_metric(name) for name in optimized_metrics(config)]
    return values[0] if len(values) == 1 else tuple(values) or None


def _check_frames(model: Any, frames: int | None) -> None:
    """ValueError unless the model's codec makes latents of clips of so many frames."""
    codec = getattr(model, "codec", None)
    if codec is None or frames is None:
        return
    try:
        codec.num_latents(frames)
    except ValueError as error:
        raise ValueError(f"data.examples.clip_frames: {error}") from error


def _is_alone() -> bool:
    """Whether the process ends with this run: it is no trial of a sweep, and no caller waits for it."""
    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.RUN


def _fit(
    config: DictConfig,
    settings: dict[str, Any],
    run: RunDirectory,
    resume: "Resume | None",
    preemption: "Preemption | None",
    changes: list[str],
) -> None:
    """Build everything, in the order in which mistakes are cheap, and train."""
    from lightning.pytorch import seed_everything
    from lightning.pytorch.callbacks import LambdaCallback

    from portraitgen.runs.train.callbacks import build_callbacks, build_grading, stored_recognizers
    from portraitgen.runs.train.launched import end_in_order
    from portraitgen.runs.train.optimized_metric import OptimizedMetric, require_graded
    from portraitgen.training.elastic import recount

    _quiet_lightning()
    end_in_order()
    grading = build_grading(config, settings)
    sought = optimized_metrics(config)
    require_graded(sought, grading)
    system = _system(config.model)
    seed_everything(config.seed, workers=True, verbose=False)
    data = instantiate(config.data, _convert_="all")
    data.setup("fit")
    model = _model(config)
    _check_frames(model, settings["data"]["examples"].get("clip_frames"))
    losses = {
        name: instantiate(node, _convert_="all") for name, node in (config.losses or {}).items() if node
    }
    if losses:
        model.use_losses(losses)
    model.may_change = data.may_change = config.allow_config_change
    features = settings["data"]["examples"].get("features")
    if features:
        model.stored_recognizers = stored_recognizers(data.catalog, features)
    if features and process_rank() == 0:
        from portraitgen.runs.train.check_features import check_features

        check_features(data.catalog, features, model, losses=losses.values())
    stage = instantiate(config.stage, _convert_="all")
    callbacks = build_callbacks(
        config,
        settings,
        system=system,
        catalog=data.catalog,
        preemption=preemption,
        grading=grading,
    )
    loggers = [instantiate(node, _convert_="all") for node in (config.logger or {}).values() if node]

    def record_start(trainer: Any, _: Any) -> None:
        """Only now is it known that the run goes on from its checkpoint."""
        if trainer.is_global_zero:
            run.record_start(settings, step=trainer.global_step, changes=changes)
            for logger in loggers:
                logger.log_hyperparams({**without_secrets(settings), **describe_commit()})

    def put_into_these_batches(trainer: Any, _: Any, checkpoint: dict[str, Any]) -> None:
        """On as many processes and with the same settings nothing changes."""
        stream = data.train_stream(world_size=trainer.world_size)
        accumulate = trainer.accumulate_grad_batches
        if config.allow_config_change and (line := recount(checkpoint, stream, accumulate=accumulate)):
            changes.append(line)

    start = LambdaCallback(on_train_start=record_start, on_load_checkpoint=put_into_these_batches)
    watched: list[Any] = [start]
    every = config.trainer.log_every_n_steps
    watched += [OptimizedMetric(name, every_steps=every) for name in sought if not is_graded(name)]
    trainer = instantiate(
        config.trainer, callbacks=[stage, *callbacks.values(), *watched], logger=loggers, _convert_="all"
    )
    _check_accumulation(data, trainer)
    share_threads(trainer.num_devices)

    if process_rank() == 0 and resume is None and callbacks.get("last_checkpoint"):
        run.begin_anew()
    log.info("%s %s", "resuming from" if resume else "starting in", resume.path if resume else run.folder)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=resume.path if resume else None)
    finally:
        if (config.logger or {}).get("wandb"):
            from portraitgen.training.wandb_log import WandbLog

            for logger in loggers:
                if isinstance(logger, WandbLog):
                    logger.finish()


def _model(config: DictConfig) -> Any:
    """The model; where weights are sharded, all processes but the first build the network without memory."""
    strategy = config.strategy if OmegaConf.is_dict(config.strategy) else {}
    kind = strategy.get("_target_")
    sharded = kind == FULLY_SHARDED or (kind == DEEPSPEED and strategy.get("stage") == 3)
    if not sharded or process_rank() == 0:
        return instantiate(config.model, _convert_="all")
    import torch

    with torch.device("meta"):
        network = instantiate(config.model.network, _convert_="all")
    return instantiate(config.model, network=network, _convert_="all")


def _check_accumulation(data: Any, trainer: Any) -> None:
    """ValueError unless each optimizer step sees as many batches, also the last of an epoch."""
    accumulate = trainer.accumulate_grad_batches
    if accumulate == 1:
        return
    batches = len(data.train_stream(world_size=trainer.world_size))
    if batches % accumulate:
        samples = (batches - batches % accumulate) * data.batch_size * trainer.world_size
        advice = f"set data.samples_per_epoch={samples}, or lower trainer.accumulate_grad_batches"
        raise ValueError(
            f"an epoch is {batches} batches, no multiple of trainer.accumulate_grad_batches ({accumulate}):"
            f" its last step would see fewer samples; {advice if samples else 'lower it'}"
        )


def _quiet_lightning() -> None:
    """Warnings only, and once: Lightning prints beside the root logger, advertises, repeats what we say."""
    logging.getLogger("lightning").handlers.clear()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
    # Lightning's own call, wherever values of several processes are gathered.
    warnings.filterwarnings("ignore", message=r"torch\.distributed\.nn\.functional\.all_gather is deprecated")
    # What is logged is a mean over all processes already.
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self\.log\(.*, sync_dist=True\)`")
    # docs/strategies.md says what its checkpoints are; weights files are whole.
    warnings.filterwarnings("ignore", message="When saving the DeepSpeed Stage 3 checkpoint")
    # On a login node that has SLURM, of every run outside of it.
    warnings.filterwarnings("ignore", message="The `srun` command is available on your system but is not")


def _system(model: DictConfig) -> str:
    """Name of the system that the model belongs to."""
    name = system_of(str(model["_target_"]))
    if name is None:
        raise ValueError(f"model: {model['_target_']} is the class of no system")
    return name
