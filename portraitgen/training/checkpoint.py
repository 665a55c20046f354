"""The training checkpoints of a run, from which it resumes: the last one and, in reserve, the one before.

    checkpoints/last.ckpt      after the last step that was saved
    checkpoints/previous.ckpt  the one before it

They are written while training goes on, verified, then renamed; both are verified before a run resumes
(`checkpoint_file.py`).
"""

import logging
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from portraitgen.media.files import temporary_path, writable_folder
from portraitgen.training.background import BackgroundWriter, background_writer
from portraitgen.training.checkpoint_file import (
    LAST,
    PREVIOUS,
    BackgroundCheckpointIO,
    CheckpointError,
    keep,
    remove,
    saved_step,
    verify,
)
from portraitgen.training.missed_validation import run_missed_validation
from portraitgen.training.run_log import resume_logs
from portraitgen.training.throughput import apart_from_training
from portraitgen.training.trainer_state import is_due, positive

log = logging.getLogger(__name__)


class Resume(NamedTuple):
    """Where a run goes on: a whole checkpoint, and the optimizer steps that had been made."""

    path: Path
    step: int


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` every `every_steps` optimizer steps and after the last; the one before stays.

    It is saved when a step is complete (weights, averages, optimizer, schedule, loops, loader), never
    within one and never on an error, which may have left half a step behind; Preemption saves through
    `save`. The last step's checkpoint is begun before the epoch is closed, so that a run may go on with
    more `max_steps`. Being a Checkpoint, it is called after all other callbacks, so their state is that of
    the same step.

    Training goes on as soon as everything is copied to the host memory of the first process; the file is
    written, verified and renamed behind it, one checkpoint at a time. DeepSpeed writes its folders itself,
    during which training waits; verifying and renaming them it does not wait for either.

    Args:
        folder: of the checkpoints.
        every_steps: the most work that a killed run loses, beside the steps that are made while the last
            checkpoint is written.
    """

    def __init__(self, folder: Path | str, *, every_steps: int) -> None:
        self.path = Path(folder) / LAST
        self.every_steps = positive("callbacks.last_checkpoint.every_steps", every_steps)
        self._saved_step = -1
        self._writer: BackgroundWriter
        self._kept: Future[None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if trainer.is_global_zero:
            writable_folder(self.path.parent)
        self._writer = background_writer(trainer)
        trainer.strategy.checkpoint_io = BackgroundCheckpointIO(self._writer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Before any callback's on_train_start, where what was due behind this step may be made up for.
        self._saved_step = checkpoint["global_step"]
        resume_logs(trainer, self._saved_step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Resumed at the end of an epoch, Lightning (2.6) closes it but does not count the next one as begun;
        # after the second such resume an epoch would be missing.
        loop, count = trainer.fit_loop, trainer.fit_loop.epoch_progress.current
        if loop.restarted_mid_epoch and count.ready == count.completed:
            loop.epoch_progress.increment_ready()
            loop.epoch_progress.increment_started()
        resumed = trainer.ckpt_path
        if resumed is not None and Path(resumed).name == PREVIOUS and trainer.is_global_zero:
            remove(self.path)  # it is damaged, and must not become the one in reserve
        if resumed is not None:
            run_missed_validation(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if is_due(trainer, self.every_steps):
            self._begin(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save now, and return when it is done; every rank must call it, at the end of the same step."""
        self._begin(trainer)
        with apart_from_training(trainer):
            self._writer.wait()

    def settle(self) -> int:
        """Wait for the checkpoint that is being written; the optimizer steps behind the one that a killed run
        would go on from, -1 where there is none. Of the first process; others know what was begun.
        """
        if self._kept is not None:
            self._writer.wait(self._kept)
        return self._saved_step

    def _begin(self, trainer: Trainer) -> None:
        if self._saved_step == trainer.global_step:
            return
        # Of the same name on all ranks, which may write into it together.
        written = temporary_path(self.path, owner=0)
        with apart_from_training(trainer):
            if self._kept is not None:
                self._writer.wait(self._kept)
            trainer.strategy.barrier("the checkpoint before is written")
            trainer.save_checkpoint(written, weights_only=False)
            if trainer.is_global_zero:
                self._kept = self._writer.submit(keep, written, self.path, step=trainer.global_step)
        self._saved_step = trainer.global_step


def find_resume(folder: Path) -> Resume | None:
    """The newest whole checkpoint in the folder `checkpoints` of a run; None where there is none at all.

    A damaged one is passed over, with a line in the log, if the one before it is whole. Each is read once.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
    """
    problems = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            verify(path)
            found = Resume(path, saved_step(path))
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            log.warning("%s; going on from the one before, of step %d", problem, found.step)
        return found
    if problems:
        raise CheckpointError(
            f"{'; '.join(problems)}: move the folder {folder} away to start the run anew, or restore the file"
        )
    return None
