"""What grading adds to the quick start's training, in CPU time: the share of its rounds, stage by stage.

    python -m benchmarks.grading [SHARDS]

Other work on the machine does not count. Each stage is trained for a few steps on the quick start's shards,
with rounds between them (stage 2 from random weights); the share is that of all its rounds, the first of
which grades the controls too, in all its steps. Weights of so few steps draw no faces: where one is found in
each frame, a later round takes a quarter more.
"""

import statistics
import sys
import tempfile
import time
from itertools import pairwise
from typing import Any
from unittest.mock import patch

from hydra import compose, initialize_config_dir
from lightning.pytorch import LightningModule, Trainer

from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.train.clip_grading import ClipGrading
from portraitgen.runs.train.train import train
from portraitgen.training.throughput import Throughput

FEW = {"quickstart/stage1": (10, 41), "quickstart/stage2": (5, 16)}
"""Experiment → steps between rounds, and of the training."""


def main(shards: str) -> None:
    """Train both stages, and print the shares."""
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        costs = [measure(experiment, shards) for experiment in FEW]
    graded, trained = (sum(each) for each in zip(*costs, strict=True))
    print(f"both stages: {graded / trained:.1%} of the training time")


def measure(experiment: str, shards: str) -> tuple[float, float]:
    """CPU seconds of all rounds, and of all steps, of the whole experiment."""
    every, steps = FEW[experiment]
    rounds: list[float] = []
    begun: list[float] = []
    grade, start = ClipGrading.on_train_batch_end, Throughput.on_train_batch_start

    def timed(self: ClipGrading, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        before = time.process_time()
        grade(self, trainer, module, *args)
        if trainer.global_step % every == 0:
            rounds.append(time.process_time() - before)

    def marked(self: Throughput, *args: Any) -> None:
        begun.append(time.process_time())
        start(self, *args)

    whole = compose("train", [f"experiment={experiment}"])
    with (
        tempfile.TemporaryDirectory() as runs,
        patch.object(ClipGrading, "on_train_batch_end", timed),
        patch.object(Throughput, "on_train_batch_start", marked),
    ):
        words = [
            f"experiment={experiment}",
            f"data.shards='{shards}'",
            f"paths.runs={runs}",
            f"trainer.max_steps={steps}",
            f"callbacks.grading.every_steps={every}",
            "callbacks.samples=null",
            "stage.init_from=null",
        ]
        train(compose("train", words))
    step = statistics.median(after - before for before, after in pairwise(begun))
    first, later = rounds[0], statistics.median(rounds[1:])
    count = whole.trainer.max_steps // whole.callbacks.grading.every_steps
    graded, trained = first + (count - 1) * later, whole.trainer.max_steps * step
    print(f"{experiment}: a step {step:.2f} s, the first round {first:.2f} s, a later one {later:.2f} s")
    print(f"  {count} rounds in {whole.trainer.max_steps} steps: {graded / trained:.1%} of the training time")
    return graded, trained


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart/data/shards/train-*.tar")
