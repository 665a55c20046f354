"""Averaged weights: the formula, and where they stand in for the weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from portraitgen.training.ema import EMA, averaged_weights
from tests.training import toy


def weights_of(module: LightningModule) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


class Follow(Callback):
    """Averages written out; and which weights validation saw."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.averages: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.averages = weights_of(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, weight in weights_of(pl_module).items():
            self.averages[name] = decay * self.averages[name] + (1 - decay) * weight
        self.steps += 1

    def assert_equal(self, weights: dict[str, Tensor]) -> None:
        assert weights.keys() == self.averages.keys()
        for name, average in self.averages.items():
            torch.testing.assert_close(weights[name], average, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("decay", [0.15, 0.99])
def test_averages_follow_the_formula_and_stand_in_for_the_weights_in_validation(
    tmp_path: Path, decay: float
) -> None:
    class Watch(Follow):
        def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.weights = self.last
            self.assert_equal(weights_of(pl_module))

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            super().on_train_batch_end(trainer, pl_module, *args)
            self.last = weights_of(pl_module)

        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            after = weights_of(pl_module)
            assert all(torch.equal(after[name], weight) for name, weight in self.last.items())

    watch, ema = Watch(decay), EMA(decay)
    callbacks = [c for c in toy.make_callbacks(tmp_path) if not isinstance(c, EMA)]
    toy.train(tmp_path, trainer={"callbacks": [ema, *callbacks, watch], "val_check_interval": 2})

    assert watch.steps == ema.updates == 6
    watch.assert_equal(ema.state_dict()["averages"])


def test_only_what_trains_is_averaged_in_float32(tmp_path: Path) -> None:
    ema = EMA()
    callbacks = [c for c in toy.make_callbacks(tmp_path, train=["reference.*"]) if not isinstance(c, EMA)]
    generator = toy.make_generator()
    generator.network.reference[0].bfloat16()
    generator.network.reference[0].forward = lambda x: torch.nn.functional.conv2d(
        x.bfloat16(), generator.network.reference[0].weight, padding=1
    ).float()
    toy.train(tmp_path, generator=generator, trainer={"callbacks": [ema, *callbacks], "max_steps": 2})
    averages = ema.state_dict()["averages"]
    assert {*averages} == {
        f"network.reference.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")
    }
    assert all(average.dtype == torch.float32 for average in averages.values())
    assert generator.network.reference[0].weight.dtype == torch.bfloat16


def test_nothing_is_exchanged_before_the_first_update() -> None:
    generator = toy.make_generator()
    ema = EMA()
    ema.on_train_start(Trainer(logger=False, enable_checkpointing=False), generator)
    weight = generator.network.denoiser.conv_in.weight
    before = weight.data_ptr()
    with ema.in_place():
        assert weight.data_ptr() == before


def test_weights_come_back_when_the_block_fails() -> None:
    generator = toy.make_generator()
    ema = EMA()
    trainer = Trainer(logger=False, enable_checkpointing=False, callbacks=[ema])
    ema.on_train_start(trainer, generator)
    ema.updates = 1
    weight = generator.network.denoiser.conv_in.weight
    before = weight.data_ptr()

    def fail() -> None:
        with averaged_weights(trainer):
            assert weight.data_ptr() != before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert weight.data_ptr() == before


def test_averages_of_other_parameters_are_refused() -> None:
    generator = toy.make_generator()
    ema = EMA()
    ema.load_state_dict({"updates": 3, "averages": {"network.old": torch.zeros(1)}})
    with pytest.raises(ValueError, match="averages are not those of what trains: network"):
        ema.on_train_start(Trainer(logger=False, enable_checkpointing=False), generator)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_impossible_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"callbacks\.ema\.decay"):
        EMA(decay)
