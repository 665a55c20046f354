"""What a stage starts from and what it trains; every mistake in it is one clear message."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from portraitgen.training.weights import load_weights, save_weights
from tests.training import toy


def test_next_stage_starts_from_the_exported_weights_and_leaves_the_frozen_ones_alone(tmp_path: Path) -> None:
    toy.train(tmp_path / "stage1", name="image")
    weights = tmp_path / "stage1/weights/last.safetensors"
    exported, _ = load_weights(weights)

    generator = toy.make_generator()
    torch.nn.init.normal_(generator.network.reference[0].weight)
    toy.train(
        tmp_path / "stage2", generator=generator, name="temporal", init_from=weights, train=["denoiser.*"]
    )

    for name, tensor in generator.network.state_dict().items():
        trained = name.startswith("denoiser.")
        assert torch.equal(tensor, exported[name]) is not trained, name


def test_a_resumed_stage_trains_on_from_its_checkpoint_not_from_init_from(tmp_path: Path) -> None:
    toy.train(tmp_path / "stage1")
    stage: dict[str, Any] = {
        "init_from": tmp_path / "stage1/weights/last.safetensors",
        "train": ["denoiser.*"],
        "name": "two",
    }
    toy.train(tmp_path / "stage2", trainer={"max_steps": 4}, **stage)
    toy.train(tmp_path / "stage2", trainer={"max_steps": 8}, **stage)
    whole = toy.train(tmp_path / "whole", trainer={"max_steps": 8}, **stage)
    resumed, _ = load_weights(tmp_path / "stage2/weights/step_00000008.safetensors")
    expected, _ = load_weights(tmp_path / "whole/weights/step_00000008.safetensors")
    assert all(torch.equal(resumed[name], expected[name]) for name in whole.network.state_dict())


def test_missing_init_from_names_the_command_that_makes_it(tmp_path: Path) -> None:
    missing = tmp_path / "stage1/weights/last.safetensors"
    command = "python train.py experiment=toy/image"
    with pytest.raises(ValueError) as caught:
        toy.train(tmp_path, name="toy/temporal", init_from=missing, init_command=command)
    assert str(caught.value) == (
        f"stage 'toy/temporal' starts from {missing}, which does not exist. "
        f"Make it with: {command} (or set stage.init_from)"
    )
    assert not (tmp_path / "checkpoints/last.ckpt").exists()


def test_names_missing_from_init_from_must_be_declared(tmp_path: Path) -> None:
    network = toy.make_generator().network
    partial = {n: t + 1 for n, t in network.state_dict().items() if not n.startswith("denoiser.mid_block.")}
    path = tmp_path / "partial.safetensors"
    save_weights(path, partial, config={}, step=0, system="toy")

    with pytest.raises(ValueError, match=r"partial\.safetensors does not fit ToyNetwork") as caught:
        toy.train(tmp_path / "a", init_from=path)
    assert "not in the file:" in str(caught.value)
    assert "denoiser.mid_block." in str(caught.value)

    class Compare(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            built = toy.make_generator().network.state_dict()
            for name, tensor in pl_module.network.state_dict().items():
                assert torch.equal(tensor, partial.get(name, built[name])), name

    toy.train(
        tmp_path / "b",
        init_from=path,
        expect_missing=["denoiser.mid_block.*"],
        callbacks=[Compare()],
        trainer={"max_steps": 1},
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"train": ["denoser.*"]},
            r"stage\.train: no parameter matches 'denoser\.\*'; did you mean denoiser\.\*",
        ),
        ({"train": ["*.upblocks.*"]}, r"did you mean .*\*\.up_blocks\.\*"),
        (
            {"train": ["denoiser.*"], "lr_scale": {"reference.*": 0.1}},
            r"stage\.lr_scale: no parameter matches 'reference\.\*'",
        ),
        ({"train": []}, "no parameter trains"),
    ],
)
def test_patterns_that_match_nothing_are_errors(
    tmp_path: Path, setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        toy.train(tmp_path, **setting)


def test_lr_scale_reaches_the_optimizer(tmp_path: Path) -> None:
    class Read(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            names = {id(parameter): name for name, parameter in pl_module.network.named_parameters()}
            for group in trainer.optimizers[0].param_groups:
                for parameter in group["params"]:
                    scale = 0.1 if "up_blocks" in names[id(parameter)] else 1.0
                    assert group["initial_lr"] == pytest.approx(1e-3 * scale)

    toy.train(tmp_path, lr_scale={"*.up_blocks.*": 0.1}, callbacks=[Read()], trainer={"max_steps": 1})


def test_the_table_says_what_trains_and_a_parameter_without_optimizer_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="portraitgen"):
        toy.train(tmp_path / "a", train=["reference.*"], trainer={"max_steps": 1})
    network = toy.make_generator().network
    reference = sum(parameter.numel() for parameter in network.reference.parameters())
    denoiser = sum(parameter.numel() for parameter in network.denoiser.parameters())
    table = [line.split() for line in caplog.messages]
    assert ["reference", f"{reference:,}", "0"] in table
    assert ["denoiser", "0", f"{denoiser:,}"] in table
    assert "trained but in no optimizer (must be 0): 0" in caplog.messages

    class Forgetful(toy.ToyGenerator):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.network.denoiser.parameters(), lr=0.1)

    generator = toy.make_generator()
    generator.__class__ = Forgetful
    with pytest.raises(RuntimeError, match=r"in no optimizer: network\.reference\.0\.weight"):
        toy.train(tmp_path / "b", generator=generator)


def test_a_stage_starts_from_several_files_that_share_nothing(tmp_path: Path) -> None:
    state = toy.make_generator().network.state_dict()
    random = {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}
    parts = [
        {n: v for n, v in random.items() if n.startswith("denoiser.") is first} for first in (True, False)
    ]
    paths = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for path, part in zip(paths, parts, strict=True):
        save_weights(path, part, config={}, step=0, system="toy")
    trained = toy.train(tmp_path / "run", init_from=paths, train=["denoiser.conv_in.*"])
    found = trained.network.state_dict()
    assert torch.equal(found["reference.0.weight"], random["reference.0.weight"])
    assert torch.equal(found["denoiser.conv_out.weight"], random["denoiser.conv_out.weight"])

    with pytest.raises(ValueError, match=r"0\.safetensors and .*0\.safetensors both hold denoiser"):
        toy.train(tmp_path / "twice", init_from=[paths[0], *paths])
    commands = ["make one", "make two"]
    with pytest.raises(ValueError, match=r"9\.safetensors, which does not exist\. Make it with: make two"):
        toy.train(tmp_path, init_from=[paths[0], tmp_path / "9.safetensors"], init_command=commands)
