"""What a step costs beyond training: Lightning's Trainer with all our callbacks against a bare loop.

Both train the same tiny network on the same batches; the bare loop has nothing but encode, noise, denoise,
loss, backward, clipping, optimizer and schedule. The clock is the process's CPU time, and rounds are
interleaved, so that a busy machine changes little; the medians of the differences are given. What happens
every thousand steps (checkpoint, weights, samples) is in place but not due; the log, every ten steps, is
part of the measurement.

    python -m benchmarks.trainer_overhead [--rounds 9] [--steps 300]

The goal is at most 1.5 ms a step. Exits with 1 if it is missed.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn

from portraitgen.diffusion.conditions import ConditionMasks
from portraitgen.diffusion.latents import PixelCodec
from portraitgen.diffusion.objective import DiffusionObjective
from portraitgen.training.checkpoint import LastCheckpoint
from portraitgen.training.ema import EMA
from portraitgen.training.export import WeightsExport
from portraitgen.training.generator import Denoised, Encoded, Generator
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


class TinyGenerator(Generator):
    """A network of two layers: the less it does, the better the rest can be seen."""

    def encode(self, batch: dict[str, Any]) -> Encoded:
        return Encoded(self.codec.encode(batch["frames"]), {})

    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], masks: ConditionMasks
    ) -> Denoised:
        return Denoised(self.network(noisy.flatten(0, 1)).unflatten(0, noisy.shape[:2]))

    def shown(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"truth": batch["frames"]}

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

    def val_dataloader(self) -> list[dict[str, Any]]:
        return [next(iter(SameBatch()))]


class Clock(Callback):
    """Notes the CPU time at which each step starts."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        self.starts.append(time.process_time())


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


def trainer_loop(steps: int, run: Path, *, ours: bool) -> list[float]:
    """Starts of the steps under a Trainer, with our callbacks and log or with none."""
    clock = Clock()
    callbacks = [
        TrainingStage("benchmark"),
        StepSeed(0),
        EMA(0.9999),
        LossLog(10),
        Health(10),
        Throughput(10),
        TrainingProgress(10),
        SampleLogger(run / "samples", every_steps=RARELY),
        WeightsExport(run / "weights", config={}, system="benchmark", every_steps=RARELY),
        LastCheckpoint(run / "checkpoints", every_steps=RARELY),
        Preemption(),
    ]
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[clock, *callbacks] if ours else [clock],
        logger=CsvLog(run) if ours else False,
        enable_checkpointing=ours,
        enable_progress_bar=ours,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        default_root_dir=run,
    )
    trainer.fit(make_generator(), datamodule=SameBatches())
    return clock.starts


def bare_loop(steps: int) -> list[float]:
    """Starts of the steps of a loop that only trains."""
    generator = make_generator()
    network, objective = generator.network, generator.objective
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    schedule = warmup_constant(optimizer, warmup_steps=10)
    batches = iter(SameBatch())
    starts = []
    for step in range(steps):
        batch = next(batches)
        starts.append(time.process_time())
        with torch.no_grad():
            encoded = generator.encode(batch)
        noised = objective.noise(encoded.clean, objective.sample_time(2, step=step, device="cpu"))
        prediction = generator.denoise(noised.noisy, noised.time, {}, ConditionMasks()).prediction
        optimizer.zero_grad()
        objective.loss(prediction, noised).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return starts


def milliseconds(starts: list[float]) -> float:
    """Mean length of a step after the warm-up: the mean, so that every tenth step's log counts."""
    return 1000 * (starts[-1] - starts[WARM_UP]) / (len(starts) - 1 - WARM_UP)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=300, help="in each round")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    bare, lightning, ours = [], [], []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            bare.append(milliseconds(bare_loop(options.steps)))
            lightning.append(milliseconds(trainer_loop(options.steps, Path(folder), ours=False)))
            ours.append(milliseconds(trainer_loop(options.steps, Path(folder), ours=True)))
        figures = f"bare {bare[-1]:.2f}, Trainer {lightning[-1]:.2f}, with ours {ours[-1]:.2f}"
        print(f"round {number + 1}: {figures} ms a step")

    overhead = statistics.median(b - a for a, b in zip(bare, ours, strict=True))
    of_lightning = statistics.median(b - a for a, b in zip(bare, lightning, strict=True))
    print(f"bare loop      {statistics.median(bare):6.2f} ms a step")
    print(f"empty Trainer  {of_lightning:+6.2f} ms")
    print(f"our Trainer    {overhead:+6.2f} ms (goal: at most {GOAL_MS:+.2f} ms)")
    return 0 if overhead <= GOAL_MS else 1


if __name__ == "__main__":
    sys.exit(main())
