"""The loss in the log: its mean over steps and ranks, and the end of a run whose loss is no number."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from portraitgen.training.learner import mean_figures
from portraitgen.training.run_log import log_metrics
from portraitgen.training.trainer_state import is_due, positive


class NonFiniteLossError(ValueError):
    """The loss is infinite or not a number."""


@dataclass(frozen=True)
class _Entry:
    """What one batch gave, still on the device: losses, and figures as pairs [total, count]."""

    step: int
    keys: list[str]
    losses: Mapping[str, Tensor]
    figures: Mapping[str, Tensor]


class LossLog(Callback):
    """Logs `train/loss…`, the mean since the last time over all batches and ranks, and `train/lr`.

    Of a figure the total over all batches and ranks is divided by the count over all of them; it is left out
    where nothing was counted.

    Nothing is read from the device in the steps between: losses are kept there, then cross over together.
    That is also when they are looked at, and whenever a checkpoint is about to be written, so none holds
    weights that a broken loss has spoiled. Losses not logged yet are part of the checkpoint.

    Args:
        every_steps: optimizer steps between two logs.
    """

    def __init__(self, every_steps: int) -> None:
        self.every_steps = positive("callbacks.loss_log.every_steps", every_steps)
        self.latest: dict[str, float] = {}
        """What was logged last."""
        self._window: list[_Entry] = []
        self._restored: dict[str, list[float]] = {}
        self._restored_figures: dict[str, list[float]] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        entry = _Entry(trainer.global_step, batch["key"], outputs["losses"], outputs["figures"])
        self._window.append(entry)
        if is_due(trainer, self.every_steps):
            values = self._collect(trainer)
            self.latest = {f"train/{name}": sum(losses) / len(losses) for name, losses in values.items()}
            figures = mean_figures(self._collect_figures(trainer))
            self.latest |= {f"train/{name}": mean for name, mean in figures.items()}
            self.latest["train/lr"] = trainer.optimizers[0].param_groups[0]["lr"]
            log_metrics(trainer, self.latest)
            self._window, self._restored, self._restored_figures = [], {}, {}

    def check(self, trainer: Trainer) -> None:
        """Raise NonFiniteLossError if a loss since the last log is no number; every rank must call it."""
        self._collect(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["losses"] = self._collect(trainer)
        checkpoint["figures"] = self._collect_figures(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._restored = checkpoint.get("losses", {})
        self._restored_figures = checkpoint.get("figures", {})

    def _collect(self, trainer: Trainer) -> dict[str, list[float]]:
        """Losses by name of each batch since the last log, mean over the ranks; every rank must call it.

        Raises:
            NonFiniteLossError: on all ranks, if one has such a loss.
        """
        if not self._window:
            return self._restored
        names = list(self._window[0].losses)
        mine = torch.stack([torch.stack([entry.losses[name] for name in names]) for entry in self._window])
        mean = trainer.strategy.reduce(mine.clone(), reduce_op="mean")
        assert isinstance(mean, Tensor)
        rows = mean.tolist()
        if not all(math.isfinite(value) for row in rows for value in row):
            self._stop(mine.tolist(), rows, names)
        return {
            name: self._restored.get(name, []) + [row[column] for row in rows]
            for column, name in enumerate(names)
        }

    def _collect_figures(self, trainer: Trainer) -> dict[str, list[float]]:
        """[total, count] by name since the last log, over all batches and ranks; every rank must call it."""
        if not self._window or not self._window[0].figures:
            return self._restored_figures
        names = list(self._window[0].figures)
        mine = torch.stack([torch.stack([entry.figures[name] for name in names]) for entry in self._window])
        # One sum over the batches, in double precision and their order: a resumed run's is the same.
        rows = trainer.strategy.reduce(mine.double(), reduce_op="sum")
        assert isinstance(rows, Tensor)
        found = {name: list(self._restored_figures.get(name, (0.0, 0.0))) for name in names}
        for row in rows.tolist():
            for name, (total, count) in zip(names, row, strict=True):
                found[name] = [found[name][0] + total, found[name][1] + count]
        return found

    def _stop(self, mine: list[list[float]], mean: list[list[float]], names: list[str]) -> None:
        broken = next(i for i, row in enumerate(mean) if not all(map(math.isfinite, row)))
        entry, own = self._window[broken], dict(zip(names, mine[broken], strict=True))
        where = f"samples {', '.join(entry.keys)}" if not math.isfinite(sum(own.values())) else "another rank"
        losses = ", ".join(f"{name} {value}" for name, value in own.items())
        raise NonFiniteLossError(
            f"the loss is not finite at step {entry.step} ({losses}; {where}). No checkpoint was written "
            "since. Lower optimizer.lr, clip gradients (trainer.gradient_clip_val), or look at these samples"
        )
