"""How long training stands still for a checkpoint or a weights file: written before it goes on, or behind it.

    python -m benchmarks.checkpoint [--megabytes 256] [--rounds 5] [--folder DIR]

A network of linear layers, whose checkpoint (weights, averages, two moments of AdamW) has about the size that
is asked for, trains under Lightning's Trainer with our callbacks. `LastCheckpoint` and `WeightsExport` are
called every few steps, once as they are and once waiting for the file. The stall is the time in the callback;
the first one of a run, which takes the memory for the copy, stands apart. The file before is always finished
when the next one is due, as with a thousand steps between them. How much longer a step takes while a file is
written is given too: the thread that writes needs a core.

The goal is a stall of at most a fifth, for both. Exits with 1 if it is missed.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from lightning.pytorch import Callback, Trainer
from torch import nn

from benchmarks.trainer_overhead import SameBatches, TinyGenerator
from portraitgen.diffusion.latents import PixelCodec
from portraitgen.diffusion.objective import DiffusionObjective
from portraitgen.training.background import background_writer
from portraitgen.training.checkpoint import LastCheckpoint
from portraitgen.training.ema import EMA
from portraitgen.training.export import WeightsExport
from portraitgen.training.stage import TrainingStage
from portraitgen.training.step_seed import StepSeed
from portraitgen.training.trainer_state import is_due

GOAL = 5.0
EVERY = 6
WIDTH = 512
BYTES_A_PARAMETER = {"checkpoint": 16, "weights": 4}


class TimedCheckpoint(LastCheckpoint):
    """Notes how long it holds training up."""

    def __init__(self, folder: Path, *, waits: bool) -> None:
        super().__init__(folder / "checkpoints", every_steps=EVERY)
        self.waits, self.stalls = waits, list[float]()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        start = time.perf_counter()
        super().on_train_batch_end(trainer, *args)
        note(self, trainer, start)


class TimedExport(WeightsExport):
    """Notes how long it holds training up."""

    def __init__(self, folder: Path, *, waits: bool) -> None:
        super().__init__(folder / "weights", config={}, system="benchmark", every_steps=EVERY, keep_last=1)
        self.waits, self.stalls = waits, list[float]()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        start = time.perf_counter()
        super().on_train_batch_end(trainer, *args)
        note(self, trainer, start)


def note(timed: TimedCheckpoint | TimedExport, trainer: Trainer, start: float) -> None:
    if is_due(trainer, timed.every_steps):
        if timed.waits:
            background_writer(trainer).wait()
        timed.stalls.append(time.perf_counter() - start)


class StepClock(Callback):
    """Times steps, by whether a file was being written as they ended; called before what writes."""

    def __init__(self) -> None:
        self.steps: dict[bool, list[float]] = {True: [], False: []}
        self._start = 0.0

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if (trainer.global_step + 1) % EVERY == 0:
            background_writer(trainer).wait()
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.steps[background_writer(trainer).is_busy].append(time.perf_counter() - self._start)


def make_generator(parameters: int) -> TinyGenerator:
    torch.manual_seed(0)
    layers = [nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(max(parameters // WIDTH**2, 1))]
    network = nn.Sequential(nn.Conv2d(12, WIDTH, 1), *layers, nn.Conv2d(WIDTH, 12, 1))
    return TinyGenerator(
        network,
        PixelCodec(2),
        DiffusionObjective(DDIMScheduler(prediction_type="sample")),
        optimizer=partial(torch.optim.AdamW, lr=1e-4),
    )


def train(timed: TimedCheckpoint | TimedExport, *, parameters: int, rounds: int, folder: Path) -> StepClock:
    clock = StepClock()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=EVERY * (rounds + 1),
        callbacks=[TrainingStage("benchmark"), StepSeed(0), EMA(0.9999), clock, timed],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    trainer.fit(make_generator(parameters), datamodule=SameBatches())
    return clock


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=256.0, help="of a checkpoint")
    parser.add_argument("--rounds", type=int, default=5, help="files of each kind, beside the first")
    parser.add_argument("--folder", type=Path, help="on the disk to measure, else that of temporary files")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    missed = False
    parameters = int(options.megabytes * 1e6 / BYTES_A_PARAMETER["checkpoint"])
    for what, kind in (("checkpoint", TimedCheckpoint), ("weights", TimedExport)):
        stalls, clocks = {}, {}
        for waits in (True, False):
            with tempfile.TemporaryDirectory(dir=options.folder) as name:
                timed = kind(Path(name), waits=waits)
                clocks[waits] = train(timed, parameters=parameters, rounds=options.rounds, folder=Path(name))
            stalls[waits] = timed.stalls
        before, behind = (statistics.median(stalls[waits][1:]) for waits in (True, False))
        steps = clocks[False].steps
        print(
            f"{what:10} {parameters * BYTES_A_PARAMETER[what] / 1e6:.0f} MB: training waits {before:.3f} s"
            f" for the file, {behind:.3f} s for the copy (the first time {stalls[False][0]:.3f} s): ratio"
            f" {before / behind:.1f} (goal: at least {GOAL:.0f})"
        )
        if steps[True] and steps[False]:
            ratio = statistics.median(steps[True]) / statistics.median(steps[False])
            print(f"           a step while the file is written takes {ratio:.2f} times as long as another")
        missed |= before / behind < GOAL
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
