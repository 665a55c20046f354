"""What grading adds to the quick start's training, in CPU time: the share of its rounds.

    python -m benchmarks.grading [SHARDS]

Other work on the machine does not count. Stage 1 is trained for a few steps on the quick start's shards, with
a round every ten; the share is that of all its rounds, the first of which grades the controls too, in all its
steps. Weights of so few steps draw no faces: where one is found in each frame, a later round takes a quarter
more.
"""

import statistics
import sys
import tempfile
import time
from itertools import pairwise
from typing import Any

from hydra import compose, initialize_config_dir
from lightning.pytorch import LightningModule, Trainer

from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.train.clip_grading import ClipGrading
from portraitgen.runs.train.train import train
from portraitgen.training.throughput import Throughput

EVERY, STEPS = 10, 41


def main(shards: str) -> None:
    """Train, and print the costs and their share."""
    rounds: list[float] = []
    begun: list[float] = []
    grade, start = ClipGrading.on_train_batch_end, Throughput.on_train_batch_start

    def timed(self: ClipGrading, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        before = time.process_time()
        grade(self, trainer, module, *args)
        if trainer.global_step % EVERY == 0:
            rounds.append(time.process_time() - before)

    def marked(self: Throughput, *args: Any) -> None:
        begun.append(time.process_time())
        start(self, *args)

    ClipGrading.on_train_batch_end, Throughput.on_train_batch_start = timed, marked  # type: ignore[method-assign, assignment]
    register_configs()
    with tempfile.TemporaryDirectory() as runs, initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose("train", ["experiment=quickstart/stage1"])
        few = [f"trainer.max_steps={STEPS}", f"callbacks.grading.every_steps={EVERY}"]
        few += ["callbacks.samples=null", f"data.shards='{shards}'", f"paths.runs={runs}"]
        train(compose("train", ["experiment=quickstart/stage1", *few]))
    step = statistics.median(after - before for before, after in pairwise(begun))
    first, later = rounds[0], statistics.median(rounds[1:])
    count = whole.trainer.max_steps // whole.callbacks.grading.every_steps
    share = (first + (count - 1) * later) / (whole.trainer.max_steps * step)
    print(f"a step {step:.2f} s, the first round {first:.2f} s, a later one {later:.2f} s of CPU time")
    print(f"{count} rounds in {whole.trainer.max_steps} steps: {share:.1%} of the training time")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart/data/shards/train-*.tar")
