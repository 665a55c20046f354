"""Random streams that depend on names and numbers alone."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from portraitgen.training.step_seed import isolated_rng, stream_seed
from tests.training import toy


class Draw(Callback):
    """What each batch would draw first."""

    def __init__(self) -> None:
        self.drawn: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        with torch.random.fork_rng(devices=[]):
            self.drawn.append(torch.rand(()).item())


def test_every_batch_draws_anew_and_the_same_whatever_came_before(tmp_path: Path) -> None:
    whole, stopped, resumed = Draw(), Draw(), Draw()
    toy.train(tmp_path / "whole", callbacks=[whole], accumulate=2, trainer={"max_steps": 4})
    toy.train(tmp_path / "stopped", callbacks=[stopped], accumulate=2, trainer={"max_steps": 2})
    torch.rand(17)
    toy.train(tmp_path / "stopped", callbacks=[resumed], accumulate=2, trainer={"max_steps": 4})
    assert stopped.drawn + resumed.drawn == whole.drawn
    assert len(whole.drawn) == len(set(whole.drawn)) == 7  # an epoch, whose last batch makes a step alone


def test_streams_differ_by_every_part() -> None:
    seeds = {stream_seed(seed, rank, step) for seed in range(3) for rank in range(8) for step in range(100)}
    assert len(seeds) == 2400
    assert stream_seed(1, 23) != stream_seed(12, 3)


def test_isolated_rng_leaves_no_trace_and_repeats() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with isolated_rng(1, torch.device("cpu")):
        one = torch.rand(3)
    with isolated_rng(1, torch.device("cpu")):
        two = torch.rand(3)
    assert torch.equal(one, two)
    assert torch.equal(torch.rand(3), expected)
