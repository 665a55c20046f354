"""The one training checkpoint of a run, from which it resumes."""

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from portraitgen.media.files import replacing, writable_folder
from portraitgen.training.throughput import apart_from_training
from portraitgen.training.trainer_state import is_due, positive

FILE_NAME = "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes straight to the folder of the checkpoint, then renames; reads without unpickling objects.

    Lightning's own collects the whole file in memory, then writes it to the system's temporary folder,
    which is small on many cluster nodes, and copies it from there.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        with replacing(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """The checkpoint's dictionary.

        Raises:
            ValueError: the file cannot be read.
        """
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}): move it away to start the run anew"
            ) from error


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` every `every_steps` optimizer steps and after the last, each over the one before.

    It is saved when a step is complete (weights, averages, optimizer, schedule, loops, loader), never
    within one and never on an error, which may have left half a step behind; Preemption saves through
    `save`. The last step's checkpoint is written before the epoch is closed, so that a run may go on with
    more `max_steps`. Being a Checkpoint, it is called after all other callbacks, so their state is that of
    the same step.

    Args:
        folder: of the checkpoint.
        every_steps: the most work that a killed run loses.
    """

    def __init__(self, folder: Path | str, *, every_steps: int) -> None:
        self.path = Path(folder) / FILE_NAME
        self.every_steps = positive("callbacks.last_checkpoint.every_steps", every_steps)
        self._saved_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if trainer.is_global_zero:
            writable_folder(self.path.parent)
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Resumed at the end of an epoch, Lightning (2.6) closes it but does not count the next one as begun;
        # after the second such resume an epoch would be missing.
        loop, count = trainer.fit_loop, trainer.fit_loop.epoch_progress.current
        if loop.restarted_mid_epoch and count.ready == count.completed:
            loop.epoch_progress.increment_ready()
            loop.epoch_progress.increment_started()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if is_due(trainer, self.every_steps):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save now; every rank must call it, at the end of the same optimizer step."""
        if self._saved_step == trainer.global_step:
            return
        with apart_from_training(trainer):
            trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_step = trainer.global_step
