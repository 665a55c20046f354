"""What a step costs beyond the training itself: Lightning's Trainer with all our callbacks against a bare loop.

Both train the same tiny network on the same batches; the bare loop has nothing but encode, noise, denoise, loss,
backward, clipping, optimizer and schedule. Rounds are interleaved, so that a busy machine slows down both alike, and
the medians over the rounds are compared. What happens every thousand steps (checkpoint, weights, samples) is in
place but not due; the log, every ten steps, is part of the measurement.

    python benchmarks/trainer_overhead.py [--rounds 9] [--steps 300]

The goal is at most 1.5 ms a step. Exits with 1 if it is missed.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn

from portraitgen.diffusion.latents import PixelCodec
from portraitgen.diffusion.objective import DiffusionObjective
from portraitgen.training.checkpoint import LastCheckpoint
from portraitgen.training.ema import EMA
from portraitgen.training.export import WeightsExport
from portraitgen.training.generator import Encoded, Generator
from portraitgen.training.health import Health
from portraitgen.training.loss_log import LossLog
from portraitgen.training.optim import warmup_constant
from portraitgen.training.preemption import Preemption
from portraitgen.training.progress import TrainingProgress
from portraitgen.training.run_log import CsvLog
from portraitgen.training.samples import SampleLogger
from portraitgen.training.stage import TrainingStage
from portraitgen.training.step_seed import StepSeed
from portraitgen.training.throughput import Throughput

GOAL_MS = 1.5
WARM_UP = 30
RARELY = 10**6
KEEP = "step times"


class TinyGenerator(Generator):
    """A network of two layers: the less it does, the better the rest can be seen."""

    def encode(self, batch: dict[str, Any]) -> Encoded:
        return Encoded(self.codec.encode(batch["frames"]), {})

    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], keep: Mapping[str, Tensor]
    ) -> Tensor:
        return self.network(noisy.flatten(0, 1)).unflatten(0, noisy.shape[:2])

    def sample(self, batch: dict[str, Any], *, generator: Any = None) -> Tensor:
        return batch["frames"]


class SameBatch:
    """A loader that costs nothing."""

    def __init__(self) -> None:
        self._batch = {"key": ["clip-000000000"] * 2, "frames": torch.rand(2, 2, 3, 8, 8) * 2 - 1}

    def __len__(self) -> int:
        return RARELY

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield self._batch

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None: ...


class SameBatches(LightningDataModule):
    def train_dataloader(self) -> SameBatch:
        return SameBatch()


class Clock(Callback):
    """Measures the steps after the warm-up, the hooks of all callbacks included."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        self.times.append(time.perf_counter())


def make_generator() -> TinyGenerator:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(12, 12, 1), nn.Conv2d(12, 12, 1))
    return TinyGenerator(
        network,
        PixelCodec(2),
        DiffusionObjective(DDIMScheduler(prediction_type="sample")),
        optimizer=partial(torch.optim.AdamW, lr=1e-4),
        lr_scheduler=partial(warmup_constant, warmup_steps=10),
    )


def with_trainer(steps: int, run: Path) -> float:
    """Seconds a step."""
    clock = Clock()
    callbacks = [
        clock,
        TrainingStage("benchmark"),
        StepSeed(0),
        EMA(0.9999),
        LossLog(10),
        Health(10),
        Throughput(10),
        TrainingProgress(10),
        SampleLogger(run / "samples", every_steps=RARELY),
        WeightsExport(run / "weights", config={}, system="benchmark", every_steps=RARELY),
        Preemption(),
        LastCheckpoint(run / "checkpoints", every_steps=RARELY),
    ]
    trainer = Trainer(
        accelerator="cpu",
        max_steps=RARELY,
        callbacks=[*callbacks, StopAfter(steps)],
        logger=CsvLog(run),
        gradient_clip_val=1.0,
        limit_val_batches=0,
        enable_model_summary=False,
        default_root_dir=run,
    )
    try:
        trainer.fit(make_generator(), datamodule=SameBatches())
    except StopIteration:
        pass
    return (clock.times[-1] - clock.times[WARM_UP]) / (len(clock.times) - 1 - WARM_UP)
