"""Pictures of what the model draws by now, from the same clips and the same noise every time."""

import logging
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from portraitgen.diffusion.noise import seeded_generators
from portraitgen.media.encode import write_video
from portraitgen.media.files import replacing, writable_folder
from portraitgen.metrics.report.panels import encode_png, panel_frames
from portraitgen.training.drawing import drawing
from portraitgen.training.generator import Generator
from portraitgen.training.step_seed import stream_seed
from portraitgen.training.throughput import apart_from_training
from portraitgen.training.trainer_state import is_due, positive

log = logging.getLogger(__name__)


class SampleLogger(Callback):
    """Writes `step_<step>.png` and, for clips, `.mp4` into `folder`, and hands them to Weights & Biases.

    A picture shows, side by side, what the model is `shown`, what it generates and the truth. The clips or
    images are the first of the validation data, the noise is the same every time, averaged weights are used
    if there are any, and the training goes on as if nothing had been drawn. With several processes each
    draws clips of its own, since sharded weights need all of them, and the first one's are written.

    Args:
        folder: of the pictures.
        every_steps: optimizer steps; the last step's are drawn in any case.
        num_clips: at most; no more than a validation batch has.
        frames_per_clip: shown in the png, evenly spread.
        fps: of the mp4.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        every_steps: int,
        num_clips: int = 4,
        frames_per_clip: int = 3,
        fps: float = 25.0,
    ) -> None:
        self.folder = Path(folder)
        self.every_steps = positive("callbacks.samples.every_steps", every_steps)
        self.num_clips = positive("callbacks.samples.num_clips", num_clips)
        self.frames_per_clip = positive("callbacks.samples.frames_per_clip", frames_per_clip)
        self.fps = fps
        self._batch: dict[str, Any] = {}
        self._has_clips = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        # Looked at now: an empty loader's StopIteration would end Lightning's epoch without a word, and with
        # it the step's other callbacks, checkpoints among them.
        self._has_clips = len(trainer.datamodule.val_dataloader()) > 0  # type: ignore[attr-defined]
        if not self._has_clips:
            log.warning(
                "no sample pictures while training, since there is no validation data: set data.val_span or"
                " data.val_shards"
            )
        elif trainer.is_global_zero:
            writable_folder(self.folder)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not self._has_clips or not is_due(trainer, self.every_steps):
            return
        assert isinstance(pl_module, Generator)
        with apart_from_training(trainer):
            columns = self._draw(trainer, pl_module)
            if trainer.is_global_zero:
                self._write(trainer, columns)

    def _draw(self, trainer: Trainer, module: Generator) -> list[dict[str, Tensor]]:
        """For each clip its columns: label → `[T, 3, H, W]` or `[3, H, W]` in [-1, 1], on the CPU."""
        seed = stream_seed("samples", trainer.global_rank)
        with drawing(trainer, module, seed=seed):
            if not self._batch:
                batch = next(iter(trainer.datamodule.val_dataloader()))  # type: ignore[attr-defined]
                # Copied: a loader may use the memory of a batch again.
                self._batch = {name: deepcopy(value[: self.num_clips]) for name, value in batch.items()}
            batch = trainer.strategy.batch_to_device(self._batch, module.device, dataloader_idx=0)
            noise = seeded_generators([seed + clip for clip in range(len(batch["key"]))])
            generated = module.sample(batch, generator=noise)
            shown = module.shown(batch)
        pictures = {label: value for label, value in shown.items() if label != "truth"}
        pictures["generated"] = generated
        if "truth" in shown:
            pictures["truth"] = shown["truth"]
        kept = {label: value.float().cpu() for label, value in pictures.items()}
        return [{label: value[clip] for label, value in kept.items()} for clip in range(len(generated))]

    def _write(self, trainer: Trainer, columns: list[dict[str, Tensor]]) -> None:
        clips = [list(panel_frames(clip)) for clip in columns]
        num_frames = len(clips[0])
        spread = np.linspace(0, num_frames - 1, min(self.frames_per_clip, num_frames)).round().astype(int)
        name = f"step_{trainer.global_step:08d}"
        png, mp4 = self.folder / f"{name}.png", self.folder / f"{name}.mp4"
        grid = np.concatenate([clip[frame] for clip in clips for frame in spread])
        with replacing(png) as temporary:
            temporary.write_bytes(encode_png(grid))
        if num_frames > 1:
            write_video(mp4, map(np.concatenate, zip(*clips, strict=True)), fps=self.fps)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [str(png)], step=trainer.global_step)
                if num_frames > 1:
                    logger.log_video("sample_video", [str(mp4)], step=trainer.global_step, format=["mp4"])
