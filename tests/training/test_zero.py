"""DeepSpeed's ZeRO-3 in one process (gloo), with a frozen part beside the network as real systems have it."""

import csv
import multiprocessing
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import Strategy
from torch import nn

from portraitgen.training.generator import Generator
from tests.strategy_run import without_cuda
from tests.training import toy


def make() -> Generator:
    generator = toy.make_generator(optimizer=partial(torch.optim.AdamW, lr=1e-3, eps=1e-4))
    generator.text_encoder = nn.Linear(3, 3).requires_grad_(False)
    return generator


class Watched(Callback):
    """As one that draws behind a step: what it computes must be no part of the step."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if hasattr(trainer.strategy, "deepspeed_engine"):
            order = trainer.strategy.deepspeed_engine.optimizer.parameter_offload.get_param_coordinator()
            assert not order.is_record_trace()


def train(run: Path, strategy: Strategy | str = "auto") -> None:
    trainer = {"max_steps": 2, "strategy": strategy, "limit_val_batches": 0}
    toy.train(run, generator=make(), callbacks=[Watched()], every_steps=1, save_every=100, trainer=trainer)


def train_by_zero(run: Path, port: int) -> None:
    """Entry of a process, whose classes this changes."""
    from portraitgen.training.zero import Zero

    with (run / "said.txt").open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": "0"}
    os.environ |= {"NODE_RANK": "0", "WORLD_SIZE": "1"}
    torch.set_num_threads(1)
    without_cuda()
    train(run, Zero(stage=3, exclude_frozen_parameters=True))


def norms(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["train/grad_norm"]) for row in csv.DictReader(file)]


def test_steps_are_made_beside_a_frozen_part_and_gradients_have_their_norm(tmp_path: Path) -> None:
    """The first step failed at the frozen part's weights, and the norm was 0, as under every stage."""
    pytest.importorskip("deepspeed")
    zero, plain = tmp_path / "zero", tmp_path / "plain"
    zero.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=train_by_zero, args=(zero, port))
    process.start()
    process.join(500)
    process.kill()
    assert process.exitcode == 0, (zero / "said.txt").read_text()
    train(plain)
    assert norms(zero) == pytest.approx(norms(plain), rel=1e-5)
    assert len(norms(plain)) == 2
    assert min(norms(plain)) > 0
