"""How far the training is: a bar on a terminal, else one line every N steps."""

import logging
import sys
import time
from datetime import timedelta

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from portraitgen.training.loss_log import LossLog
from portraitgen.training.trainer_state import find_callback, is_due, optimizer_stepped, positive

log = logging.getLogger(__name__)

_REDRAW_S = 0.2


class TrainingProgress(ProgressBar):
    """Shows the step, the loss as LossLog logged it last, steps a second and the time left; on rank 0.

    Args:
        every_steps: between two lines, where standard error is not a terminal.
    """

    def __init__(self, every_steps: int) -> None:
        super().__init__()
        self.every_steps = positive("callbacks.progress.every_steps", every_steps)
        self.is_enabled = True
        self._bar: Progress | None = None
        self._drawn = 0.0
        self._start = (0.0, 0)

    def disable(self) -> None:
        self.is_enabled = False

    def enable(self) -> None:
        self.is_enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = (time.perf_counter(), trainer.global_step)
        if self.is_enabled and sys.stderr.isatty():
            # No refreshing thread: it would take the interpreter from the training ten times a second.
            self._bar = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
                auto_refresh=False,
            )
            self._bar.add_task("", total=_total_steps(trainer), completed=trainer.global_step)
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not self.is_enabled:
            return
        if self._bar is None:
            if is_due(trainer, self.every_steps):
                total = _total_steps(trainer)
                steps = f"{trainer.global_step}/{total}" if total else f"{trainer.global_step}"
                log.info("step %s  %s", steps, self._state(trainer))
        elif optimizer_stepped(trainer) and time.perf_counter() - self._drawn > _REDRAW_S:
            self._draw(self._bar, trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close(trainer)

    def _close(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._draw(self._bar, trainer)
            self._bar.stop()
            self._bar = None

    def _draw(self, bar: Progress, trainer: Trainer) -> None:
        bar.update(bar.task_ids[0], completed=trainer.global_step, description=self._state(trainer))
        bar.refresh()
        self._drawn = time.perf_counter()

    def _state(self, trainer: Trainer) -> str:
        begun, first_step = self._start
        speed = (trainer.global_step - first_step) / (time.perf_counter() - begun)
        parts = [f"{speed:.2f} it/s"]
        losses = find_callback(trainer, LossLog)
        if losses is not None and losses.latest:
            parts.insert(0, f"loss {losses.latest['train/loss']:.4f}")
        total = _total_steps(trainer)
        if total and speed > 0:
            parts.append(f"{timedelta(seconds=round((total - trainer.global_step) / speed))} left")
        return "  ".join(parts)


def _total_steps(trainer: Trainer) -> int | None:
    """Optimizer steps of the whole run; None when it has no end."""
    total = trainer.estimated_stepping_batches
    return int(total) if 0 < total < float("inf") else None
