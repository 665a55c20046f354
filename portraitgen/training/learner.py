"""The LightningModule under all that is trained: what of it trains, and what a checkpoint holds."""

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from portraitgen.losses.mean import Mean
from portraitgen.nn.lora import plain_name
from portraitgen.nn.pretrained import base_tensors, bases
from portraitgen.training.bases import base_facts
from portraitgen.training.fsdp import FullySharded
from portraitgen.training.optim import MakeOptimizer, build_optimizer
from portraitgen.training.sharding import by_zero, on_meta
from portraitgen.training.step_seed import isolated_rng, stream_seed
from portraitgen.training.zero import Zero

Batch = dict[str, Any]

# Frozen parts are in eval mode on purpose, see Learner.train.
warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode at the start of training")


class Learner(LightningModule, ABC):
    """Trains `network`; what is learned from a batch is for subclasses to say, in `losses`.

    Only parameters of `network` can train; a TrainingStage says which. Whatever holds no parameter that
    trains is in eval mode. A checkpoint holds what trains, no more, and fits only the run that wrote it:
    same stage, same trained parameters, same frozen weights.

    Args:
        network: the one object that training, generation and evaluation build, and that weights files
            describe.
        optimizer: optimizer class with its settings bound, called with the parameter groups.
        lr_scheduler: scheduler class with its settings bound, called with the optimizer, stepped every
            optimizer step; None keeps the rate.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        optimizer: MakeOptimizer,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.stage = ""
        self.lr_scale: Mapping[str, float] = {}
        self.earlier_recognizers: dict[str, str] = {}
        """SHA-256 → name of the recognition networks that losses and conditions of earlier stages had."""
        self.stored_recognizers: dict[str, str] = {}
        """Those whose embeddings the run reads from its shards."""
        # Checkpoints lack the frozen weights; on_load_checkpoint compares the names of the others.
        self.strict_loading = False
        self._frozen_digest = ""
        self.may_change = False
        """Whether a resumed run may go on with other settings of the optimizer, and on other processes."""
        self._group_settings: list[dict[str, Any]] = []
        self.optimized: set[int] = set()
        """`id` of each parameter that was given to the optimizer."""
        self._validated: list[tuple[int, dict[str, Tensor]]] = []
        self._of_base: Mapping[str, str] = {}
        self._make_optimizer = optimizer
        self._make_lr_scheduler = lr_scheduler

    @property
    def recognizers(self) -> dict[str, str]:
        """SHA-256 → name of the recognition networks by whose judgement the weights were trained.

        Those of losses, and those that give conditions. Where no digest is known, `UNKNOWN` and the name.
        """
        return self.earlier_recognizers | self.stored_recognizers | self.condition_recognizers

    @property
    def condition_recognizers(self) -> dict[str, str]:
        """Those that this system looks at its conditions with."""
        return {}

    @abstractmethod
    def losses(self, batch: Batch, *, step: int, training: bool) -> Mapping[str, Tensor | Mean]:
        """`loss` to minimise and, where it is a sum, its terms as `loss_<name>`; the same names every time.

        A `Mean` is a figure: it is logged, exactly over all batches and ranks, and not minimised.

        Args:
            step: batches since the run's start; in validation 0.
            training: False in validation: nothing is dropped or augmented, the batch is of one clip, and no
                other process is asked. A term may then be a `Mean`, whose rows are counted over all clips.
        """

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """`loss` to minimise; in `losses` the same without gradient and, if a sum, each `loss_<name>`; in
        `figures` the pairs of `Mean`s.
        """
        values = self.losses(batch, step=self.trainer.fit_loop.total_batch_idx, training=True)
        losses, figures = _apart(values)
        return {"loss": values["loss"], "losses": losses, "figures": figures}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Takes the losses clip by clip, each with random numbers of its own, the same in every validation.

        So they do not depend on how many clips a batch has, or on how many processes share them.
        """
        for position, clip in clips_of(batch):
            with isolated_rng(stream_seed("validation", position), self.device):
                values = self.losses(clip, step=0, training=False)
            self._validated.append((position, {name: _pair(value) for name, value in values.items()}))

    def on_validation_epoch_start(self) -> None:
        self._validated = []

    def on_validation_epoch_end(self) -> None:
        """Logs `val/loss…` and `val/<figure>`: means over the clips, each counted once."""
        if not self._validated:
            return
        names = list(self._validated[0][1])
        positions = torch.tensor([position for position, _ in self._validated], device=self.device)
        pairs = torch.stack([torch.stack([pair[name] for name in names]) for _, pair in self._validated])
        # Of all processes; each has as many, and the first clips come twice where the number does not divide.
        gather = self.trainer.strategy.all_gather
        positions, pairs = gather(positions).flatten(), gather(pairs).reshape(-1, len(names), 2)
        order = {position: row for row, position in enumerate(positions.tolist())}
        rows = [order[position] for position in sorted(order)]
        totals = dict(zip(names, pairs.cpu().double()[rows].sum(0).tolist(), strict=True))
        means = mean_figures(totals)
        terms = [means.get(name, 0.0) for name in names if name.startswith("loss_")]
        if terms:
            means["loss"] = sum(terms)
        # Lightning files the metrics under the value of "step"; its own count is one behind during a fit.
        metrics = {f"val/{name}": mean for name, mean in means.items()}
        self.log_dict({**metrics, "step": float(self.global_step)})
        self._validated = []

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = build_optimizer(
            self._make_optimizer,
            ((plain_name(name), parameter) for name, parameter in self.network.named_parameters()),
            lr_scale=self.lr_scale,
        )
        self.optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._group_settings = [
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        if self._make_lr_scheduler is None:
            return {"optimizer": optimizer}
        scheduler = self._make_lr_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def setup(self, stage: str) -> None:
        # After the callbacks' setup, so a TrainingStage has loaded and frozen the network already.
        for name, parameter in self.named_parameters():
            if not name.startswith("network."):
                parameter.requires_grad_(False)
        if stage == "fit" and not on_meta(self.network):
            # Now, while the tensors still are those that were filled, on the CPU and in no strategy's hands.
            trained = self.trained_state()
            self._of_base = {n: part for n, part in base_tensors(self).items() if n not in trained}
            self._frozen_digest = self._digest_frozen()

    def configure_model(self) -> None:
        """Shards the network where the strategy does so; the stage has filled and frozen it before."""
        if isinstance(self.trainer.strategy, FullySharded | Zero):
            self.trainer.strategy.shard(self)

    @property
    def frozen_facts(self) -> tuple[str, Mapping[str, str]]:
        """Digest of the frozen weights, and which tensors still are those of a base."""
        return self._frozen_digest, self._of_base

    @frozen_facts.setter
    def frozen_facts(self, facts: tuple[str, Mapping[str, str]]) -> None:
        self._frozen_digest, self._of_base = facts

    def on_fit_start(self) -> None:
        # Lightning keeps the mode it finds, and pretrained parts arrive in eval mode.
        self.train()

    def on_train_start(self) -> None:
        if self.may_change and self.global_step:
            self._apply_optimizer_settings()

    def _apply_optimizer_settings(self) -> None:
        """Put the settings of this run where the checkpoint has brought those of its own optimizer."""
        (optimizer,) = self.trainer.optimizers
        for group, settings in zip(optimizer.param_groups, self._group_settings, strict=True):
            group.update(settings, initial_lr=settings["lr"])
        for config in self.trainer.lr_scheduler_configs:
            schedule = config.scheduler
            if not isinstance(schedule, LambdaLR):
                raise ValueError(
                    "lr_scheduler: only a schedule of the step alone can go on with other settings"
                )
            schedule.base_lrs = [settings["lr"] for settings in self._group_settings]
            schedule.last_epoch = self.global_step
            schedule._step_count = self.global_step + 1
            rates = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
            schedule._last_lr = [rate * scale(self.global_step) for rate, scale in rates]
            for group, rate in zip(optimizer.param_groups, schedule._last_lr, strict=True):
                group["lr"] = rate

    def train(self, mode: bool = True) -> Self:
        """Set the mode; in train mode, submodules in which no parameter trains are still in eval mode."""
        super().train(mode)
        if mode:
            for module in self.frozen_modules().values():
                module.eval()
        return self

    def frozen_modules(self) -> dict[str, nn.Module]:
        """The largest submodules that have parameters of which none trains, by name."""
        partly_trained = {""}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                parts = name.split(".")
                partly_trained.update(".".join(parts[:end]) for end in range(1, len(parts)))
        return {
            name: module
            for name, module in self.named_modules()
            if name not in partly_trained
            and name.rpartition(".")[0] in partly_trained
            and next(module.parameters(), None) is not None
        }

    def trained_state(self) -> dict[str, Tensor]:
        """What of `state_dict()` training changes: trained parameters, and buffers of what is not frozen."""
        frozen = {name for name, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}
        prefixes = tuple(f"{name}." for name in self.frozen_modules())
        state = self.state_dict()
        return {k: v for k, v in state.items() if k not in frozen and not k.startswith(prefixes)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stage"] = {"name": self.stage, "frozen": self._frozen_digest}
        checkpoint["processes"] = self.trainer.world_size
        if "state_dict" in checkpoint:
            checkpoint["state_dict"] = self.trained_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another stage, with other trained parameters or on other frozen weights.

        Raises:
            ValueError: says which of these, and what to do.
        """
        processes = checkpoint.get("processes", self.trainer.world_size)
        if processes != self.trainer.world_size and not self.may_change:
            raise ValueError(
                f"the run was started with {processes} process(es), and now there are"
                f" {self.trainer.world_size}, which draw other random numbers (trainer.devices,"
                " trainer.num_nodes): use as many, or go on with allow_config_change=true"
            )
        stage = checkpoint["stage"]
        if stage["name"] != self.stage:
            raise ValueError(
                f"the checkpoint is of stage {stage['name']!r}, this run trains stage {self.stage!r}: "
                "give the run another name, and start it from the weights of the other (stage.init_from)"
            )
        if "state_dict" in checkpoint:
            expected, found = set(self.trained_state()), set(checkpoint["state_dict"])
            if expected != found:
                lines = [f"  only in the checkpoint: {name}" for name in sorted(found - expected)]
                lines += [f"  only trained now: {name}" for name in sorted(expected - found)]
                raise ValueError("\n".join(["the checkpoint does not hold what this run trains:", *lines]))
        if stage["frozen"] != self._frozen_digest:
            raise ValueError(
                "the frozen weights are not those this run was started with, so it cannot go on: restore the "
                "files they come from (stage.init_from, pretrained models), or start a run of another name"
            )

    def exported_state(self) -> dict[str, Tensor]:
        """What a weights file of the network holds: all that does not equal the base it was filled from."""
        # Of parameters that are not sharded by ZeRO what they hold now: averages are put there for a while.
        state = self.network.state_dict(keep_vars=True).items()
        state_now = {n: tensor if by_zero(tensor) else tensor.detach() for n, tensor in state}
        return {plain_name(n): t for n, t in state_now.items() if f"network.{n}" not in self._of_base}

    def base_facts(self) -> dict[str, Any]:
        """The bases of this run's frozen weights, with digests, by the name of the part filled from them."""
        used = set(self._of_base.values())
        return base_facts({part: base for part, base in bases(self).items() if part in used})

    def _digest_frozen(self) -> str:
        """Hash of all weights that no checkpoint holds: about a second a gigabyte, less what is of a base."""
        trained = set(self.trained_state())
        files = {part: json.dumps(facts["files"]).encode() for part, facts in self.base_facts().items()}
        digest = hashlib.sha256()
        for name, tensor in self.state_dict().items():
            if name not in trained:
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                if name in self._of_base:
                    digest.update(files[self._of_base[name]])
                else:
                    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def clips_of(batch: Batch) -> Iterator[tuple[int, Batch]]:
    """The clips (or photos) of a batch one by one, with what tells each from the others of a data set.

    That is its `position`, or a hash of its key. What all clips share (axis 1 in front) each of them gets.
    """
    size = len(batch["key"])
    positions = batch["position"].tolist() if "position" in batch else map(stream_seed, batch["key"])
    for index, position in enumerate(positions):
        yield (
            position,
            {
                name: value[index : index + 1] if len(value) == size else value
                for name, value in batch.items()
            },
        )


def mean_figures(pairs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """total / count by name, of those whose count is not 0."""
    return {name: total / count for name, (total, count) in pairs.items() if count}


def _pair(value: Tensor | Mean) -> Tensor:
    """[total, count] of a clip: of a loss its value, once."""
    return value.pair() if isinstance(value, Mean) else torch.stack([value.detach(), value.new_ones(())])


def _apart(values: Mapping[str, Tensor | Mean]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses without gradient, and the pairs [total, count] of figures."""
    losses = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
    return losses, {name: value.pair() for name, value in values.items() if isinstance(value, Mean)}
