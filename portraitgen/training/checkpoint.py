"""The training checkpoints of a run, from which it resumes: the last one and, in reserve, the one before.

    checkpoints/last.ckpt      after the last step that was saved
    checkpoints/previous.ckpt  the one before it

A file ends in the SHA-256 of all that stands before, which `torch.load` does not look at; a folder, as
sharded strategies write, holds one of its files. Both are verified before a run resumes.
"""

import hashlib
import logging
import os
import pickle
import shutil
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from portraitgen.media.files import replacing, temporary_path, writable_folder
from portraitgen.training.missed_validation import run_missed_validation
from portraitgen.training.throughput import apart_from_training
from portraitgen.training.trainer_state import is_due, positive

log = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"

_MARK = b"\nsha256:"
_TRAILER_BYTES = len(_MARK) + 64
_FOLDER_DIGEST = "sha256.txt"
_CHUNK_BYTES = 1 << 22


class CheckpointError(ValueError):
    """A checkpoint is damaged; the message says which and how."""


class Resume(NamedTuple):
    """Where a run goes on: a whole checkpoint, and the optimizer steps that had been made."""

    path: Path
    step: int


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes straight to the folder of the checkpoint, then renames; reads without unpickling objects.

    Lightning's own collects the whole file in memory, then writes it to the system's temporary folder,
    which is small on many cluster nodes, and copies it from there.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            hashed = _Hashed(file)
            torch.save(checkpoint, cast(BinaryIO, hashed))  # write and flush are all it calls
            file.write(_MARK + hashed.digest.hexdigest().encode())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """The checkpoint's dictionary.

        Raises:
            CheckpointError: the file cannot be read.
        """
        return _load(Path(path), map_location)


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` every `every_steps` optimizer steps and after the last; the one before stays.

    It is saved when a step is complete (weights, averages, optimizer, schedule, loops, loader), never
    within one and never on an error, which may have left half a step behind; Preemption saves through
    `save`. The last step's checkpoint is written before the epoch is closed, so that a run may go on with
    more `max_steps`. Being a Checkpoint, it is called after all other callbacks, so their state is that of
    the same step.

    Args:
        folder: of the checkpoints.
        every_steps: the most work that a killed run loses.
    """

    def __init__(self, folder: Path | str, *, every_steps: int) -> None:
        self.path = Path(folder) / LAST
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
        resumed = trainer.ckpt_path
        if resumed is not None and Path(resumed).name == PREVIOUS and trainer.is_global_zero:
            _remove(self.path)  # it is damaged, and must not become the one in reserve
        if resumed is not None:
            self._saved_step = trainer.global_step
            run_missed_validation(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if is_due(trainer, self.every_steps):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save now; every rank must call it, at the end of the same optimizer step."""
        if self._saved_step == trainer.global_step:
            return
        # Of the same name on all ranks, which may write into it together.
        written = temporary_path(self.path, owner=0)
        with apart_from_training(trainer):
            trainer.save_checkpoint(written, weights_only=False)
            if trainer.is_global_zero:
                _keep(written, self.path)
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
            _verify(path)
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


def saved_step(path: Path) -> int:
    """Optimizer steps that a checkpoint has behind it; of a file no tensor is read.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    if path.is_dir():
        states = sorted(path.rglob("*.pt")) + sorted(path.glob("*.ckpt"))
        for state in states:
            facts = _load(state, "cpu", mmap=True)
            if "global_step" in facts:
                return int(facts["global_step"])
        raise CheckpointError(f"{path} is a folder without a checkpoint")
    facts = _load(path, "cpu", mmap=True)
    if "global_step" not in facts:
        raise CheckpointError(f"{path} is no checkpoint of a run: it says no step")
    return int(facts["global_step"])


class _Hashed:
    """A file to write to, which keeps the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _keep(written: Path, path: Path) -> None:
    """Make a checkpoint that was written the last one, and the last one the one before."""
    if written.is_dir():
        (written / _FOLDER_DIGEST).write_text(_folder_digest(written))
    if path.exists():
        previous = path.with_name(PREVIOUS)
        if previous.is_dir():
            shutil.rmtree(previous)
        os.replace(path, previous)
    os.replace(written, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _verify(path: Path) -> None:
    """CheckpointError unless the bytes are those that were written; older files without a digest pass."""
    if path.is_dir():
        stated = path / _FOLDER_DIGEST
        if stated.is_file() and stated.read_text() != _folder_digest(path):
            raise CheckpointError(f"{path} is damaged: its files are not those that were written")
        return
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file:
        left = max(size - _TRAILER_BYTES, 0)
        while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
        trailer = file.read()
    if trailer.startswith(_MARK) and trailer[len(_MARK) :] != digest.hexdigest().encode():
        raise CheckpointError(f"{path} is damaged: its bytes are not those that were written (SHA-256)")


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(each for each in folder.rglob("*") if each.is_file() and each.name != _FOLDER_DIGEST):
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(f"{file.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()


def _load(path: Path, map_location: Any, *, mmap: bool = False) -> dict[str, Any]:
    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except (RuntimeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} cannot be read, perhaps it was cut short ({reason})") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} is no checkpoint of a run")
    return loaded
