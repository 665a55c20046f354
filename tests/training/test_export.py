"""Weights that a run leaves behind."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from portraitgen.training.ema import EMA
from portraitgen.training.export import WeightsExport
from portraitgen.training.weights import load_weights
from tests.training import toy


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_newest_files_stay_and_last_is_the_newest(tmp_path: Path) -> None:
    export = WeightsExport(tmp_path / "w", config=toy.CONFIG, system="toy", every_steps=2, keep_last=2)
    toy.train(tmp_path, callbacks=[export], trainer={"max_steps": 7}, save_every=100)
    assert names(tmp_path / "w") == [
        "last.safetensors",
        "step_00000006.safetensors",
        "step_00000007.safetensors",
    ]
    last = (tmp_path / "w/last.safetensors").read_bytes()
    assert last == (tmp_path / "w/step_00000007.safetensors").read_bytes()


def test_the_whole_network_is_exported_with_averages_where_it_trains(tmp_path: Path) -> None:
    callbacks = toy.make_callbacks(tmp_path, train=["denoiser.*"])
    ema = next(callback for callback in callbacks if isinstance(callback, EMA))
    generator = toy.train(tmp_path, trainer={"callbacks": callbacks})
    tensors, facts = load_weights(tmp_path / "weights/last.safetensors")
    averages = ema.state_dict()["averages"]
    state = generator.network.state_dict()
    assert tensors.keys() == state.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, averages.get(f"network.{name}", state[name])), name
    assert any(not torch.equal(tensor, state[name]) for name, tensor in tensors.items())
    assert facts == {"system": "toy", "step": 6, "config": toy.CONFIG}


def test_without_averages_the_weights_themselves_are_exported(tmp_path: Path) -> None:
    callbacks = [c for c in toy.make_callbacks(tmp_path) if not isinstance(c, EMA)]
    generator = toy.train(tmp_path, trainer={"callbacks": callbacks})
    tensors, _ = load_weights(tmp_path / "weights/last.safetensors")
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in generator.network.state_dict().items())


@pytest.mark.parametrize("setting", ["every_steps", "keep_last"])
def test_counts_must_be_positive(tmp_path: Path, setting: str) -> None:
    settings = {"every_steps": 1} | {setting: 0}
    with pytest.raises(ValueError, match=rf"callbacks\.weights\.{setting} is 0"):
        WeightsExport(tmp_path, config={}, system="toy", **settings)


def test_a_run_that_is_stopped_early_leaves_its_weights_too(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.should_stop = True

    toy.train(
        tmp_path, callbacks=[Stop()], trainer={"max_steps": 20, "val_check_interval": 2}, save_every=100
    )
    assert names(tmp_path / "weights") == ["last.safetensors", "step_00000002.safetensors"]
