"""FSDP2 in two processes: the same training as DDP, whose checkpoints it shares; weights in parts."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file
from torch import nn

from portraitgen.nn.dual_unet import DenoisingUNet
from portraitgen.training.fsdp import FullySharded
from portraitgen.training.generator import Generator
from portraitgen.training.sharding import sharded_units
from tests.training.toy import finish, make_generator, start, train

STEPS = 6
# What has no effect, such as a bias before a norm, has gradients of rounding errors alone, which Adam would
# scale up to whole steps.
SETTINGS = {"samples": True, "every_steps": 3, "save_every": 3}


def make() -> Generator:
    """As train.py builds it: without memory, but in the first process."""
    generator = make_generator(optimizer=steady_adam)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        generator.network.to("meta")
    return generator


def make_whole() -> Generator:
    return make_generator(optimizer=steady_adam)


def steady_adam(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-3, eps=1e-4)


def run(folder: Path, *, sharded: bool, steps: int = STEPS, **options: Any) -> None:
    trainer = {"max_steps": steps} | ({"strategy": FullySharded()} if sharded else {})
    make_it = make if sharded else make_whole
    codes = finish(start(folder, world_size=2, make=make_it, trainer=trainer, **SETTINGS, **options))
    assert codes == [0, 0], (folder / "rank0.log").read_text() + (folder / "rank1.log").read_text()


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ddp"
    run(folder, sharded=False)
    return folder


def losses(folder: Path) -> list[float]:
    rows = (folder / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("train/loss")
    return [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]


def assert_same(one: Path, two: Path) -> None:
    """Losses to 1e-6 of their size; averaged weights and the state of the optimizer to 1e-6."""
    assert losses(one) == pytest.approx(losses(two), rel=1e-6)
    weights = [load_file(folder / "weights/last.safetensors") for folder in (one, two)]
    torch.testing.assert_close(*weights, atol=1e-6, rtol=1e-5)
    states = [torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in (one, two)]
    torch.testing.assert_close(*[each["state_dict"] for each in states], atol=1e-6, rtol=1e-5)
    optimizers = [each["optimizer_states"][0]["state"] for each in states]
    torch.testing.assert_close(*optimizers, atol=1e-6, rtol=1e-5)
    averages = [
        next(state["averages"] for name, state in each["callbacks"].items() if name.startswith("EMA"))
        for each in states
    ]
    torch.testing.assert_close(*averages, atol=1e-6, rtol=1e-5)


def test_trains_as_ddp_does_with_averages_resume_and_export(replicated: Path, tmp_path: Path) -> None:
    """The second half goes on from the first's checkpoint; pictures and validation lie between."""
    run(tmp_path / "fsdp", sharded=True, steps=3)
    run(tmp_path / "fsdp", sharded=True)
    assert_same(replicated, tmp_path / "fsdp")
    pictures = [folder / "samples/step_00000006.png" for folder in (replicated, tmp_path / "fsdp")]
    assert pictures[0].stat().st_size == pytest.approx(pictures[1].stat().st_size, rel=0.01)


def test_goes_on_in_one_process(replicated: Path, tmp_path: Path) -> None:
    """A checkpoint is whole: nothing in it says how many processes wrote it, but their number."""
    run(tmp_path / "fsdp", sharded=True, steps=3)
    generator = make_whole()
    generator.may_change = True
    train(tmp_path / "fsdp", generator=generator, trainer={"max_steps": 4})
    assert (tmp_path / "fsdp/weights/step_00000004.safetensors").is_file()


def test_names_that_differ_are_refused_where_that_is_asked() -> None:
    """They were a KeyError, or kept what was there, whatever was asked."""
    strategy = FullySharded()
    strategy._lightning_module = module = LightningModule()
    module.layer = nn.Linear(2, 2)
    saved = {"layer.weight": torch.ones(2, 2), "layer.more": torch.ones(1)}
    with pytest.raises(ValueError, match=r"2 names differ, layer\.bias among them: it is only in the model"):
        strategy.load_model_state_dict({"state_dict": saved}, strict=True)
    strategy.load_model_state_dict({"state_dict": saved}, strict=False)
    assert torch.equal(module.layer.weight, saved["layer.weight"])


def test_units_are_the_blocks_then_what_is_left() -> None:
    options = {
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 8,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
    }
    network = nn.ModuleDict({"unet": DenoisingUNet(options)})
    *blocks, child, root = sharded_units(network)
    assert (child, root) == (network["unet"], network)
    assert {type(block).__name__ for block in blocks} == {"ResnetBlock2D", "ReferenceTransformerBlock"}


def test_parameters_of_two_precisions_that_train_together_are_refused() -> None:
    from portraitgen.training.sharding import _require_shardable

    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).bfloat16())
    _require_shardable(network)  # each child is gathered for itself
    with pytest.raises(ValueError, match="bfloat16, float32: train them in one precision"):
        _require_shardable(nn.Sequential(network))
