"""Weights files of a run while it trains: what generation, evaluation and the next stage start from."""

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from portraitgen.media.files import replacing, writable_folder
from portraitgen.nn.lora import lora_settings
from portraitgen.training.background import BackgroundWriter, background_writer
from portraitgen.training.ema import averaged_weights
from portraitgen.training.learner import Learner
from portraitgen.training.loss_log import LossLog
from portraitgen.training.sharding import Copies, copies
from portraitgen.training.throughput import apart_from_training
from portraitgen.training.trainer_state import find_callback, is_due, positive
from portraitgen.training.weights import save_weights

LAST = "last.safetensors"


class WeightsExport(Callback):
    """Writes `step_<step>.safetensors` and `last.safetensors` (the same file) every so often and at the end.

    They hold the network, also what an earlier stage trained, but not the codec; averaged weights if there
    are any. What still equals a pretrained base is left out, and the base is named with its digest. Training
    goes on as soon as they are copied to host memory. A checkpoint of a step is behind its weights: a run
    that is finished always has them.

    Args:
        folder: of the files.
        config: what builds the network, stored in each file; plain values, interpolations resolved.
        system: name of the system, stored in each file.
        every_steps: optimizer steps.
        keep_last: this many `step_…` files stay, the newest.
        provenance: more facts to store, e.g. the commit.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        config: Mapping[str, Any],
        system: str,
        every_steps: int,
        keep_last: int = 3,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.config = config
        self.system = system
        self.every_steps = positive("callbacks.weights.every_steps", every_steps)
        self.keep_last = positive("callbacks.weights.keep_last", keep_last)
        self.provenance = provenance
        self._exported: Path | None = None
        self._writer: BackgroundWriter
        self._written: Future[None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if trainer.is_global_zero:
            writable_folder(self.folder)
        self._writer = background_writer(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that was killed may have left weights of steps that it now makes again.
        later = [path for path in _steps(self.folder) if _step(path) > trainer.global_step]
        if not later or not trainer.is_global_zero:
            return
        for path in later:
            path.unlink()
        if newest := _steps(self.folder)[-1:]:
            self._call_last(newest[0])
        else:
            (self.folder / LAST).unlink(missing_ok=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if is_due(trainer, self.every_steps):
            self._export(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # There is something left to do when training was ended after a batch, as early stopping does.
        self._export(trainer, pl_module)

    def _export(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        path = self.folder / f"step_{trainer.global_step:08d}.safetensors"
        if self._exported == path:
            return
        self._exported = path
        loss_log = find_callback(trainer, LossLog)
        if loss_log is not None:
            loss_log.check(
                trainer
            )  # on every rank; names the step and the samples of a loss that is no number
        with apart_from_training(trainer):
            if self._written is not None:
                self._writer.wait(self._written)
            state = self._copies(trainer, pl_module)
            if trainer.is_global_zero:
                facts = self.facts(pl_module)
                self._written = self._writer.submit(
                    self._write, path, state, step=trainer.global_step, provenance=facts
                )

    def _write(self, path: Path, state: Copies, *, step: int, provenance: Mapping[str, Any]) -> None:
        save_weights(path, state, config=self.config, step=step, system=self.system, provenance=provenance)
        self._call_last(path)
        for old in _steps(self.folder)[: -self.keep_last]:
            old.unlink()

    def save(self, trainer: Trainer, learner: Learner, path: Path, *, more: Mapping[str, Any]) -> None:
        """Write the weights as they are now to `path`, with `more` facts, and return when they are there.

        Every process must call it.
        """
        state = self._copies(trainer, learner)
        if trainer.is_global_zero:
            facts, step = {**self.facts(learner), **more}, trainer.global_step
            save_weights(path, state, config=self.config, step=step, system=self.system, provenance=facts)

    def _copies(self, trainer: Trainer, learner: Learner) -> Copies:
        with averaged_weights(trainer):
            # Of sharded weights every process has a part.
            return copies(learner.exported_state(), keep=trainer.is_global_zero)

    def _call_last(self, path: Path) -> None:
        with replacing(self.folder / LAST) as temporary:
            try:
                os.link(path, temporary)
            except OSError:  # the file system has no hard links
                shutil.copyfile(path, temporary)

    def facts(self, learner: Learner) -> dict[str, Any]:
        """The facts given, what else decides what the tensors mean (bases, alpha), and who judged them."""
        facts = dict(self.provenance or {})
        found = facts.get("bases", {}) | learner.base_facts()
        if found:
            facts["bases"] = found
        if learner.recognizers:
            facts["recognizers"] = learner.recognizers
        adapters = lora_settings(learner.network)
        if adapters:
            facts["lora"] = adapters
        return facts


def _steps(folder: Path) -> list[Path]:
    """Weights files of a run, by step."""
    return sorted(folder.glob("step_*.safetensors"), key=_step)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))
