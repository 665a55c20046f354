"""What a training step computes, what stays frozen, and which checkpoints fit."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from portraitgen.diffusion.conditions import ConditionDropout
from portraitgen.training.generator import Denoised
from tests.training import toy


class Recorder(Callback):
    """Keeps what training steps returned and what validation logged."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []
        self.validation: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.outputs.append(outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation.append(trainer.callback_metrics["val/loss"].item())


def test_the_loss_is_the_objective_of_the_noised_batch(tmp_path: Path) -> None:
    """Equal to the formula written out, with the step's own random numbers."""

    class Compare(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            random = torch.get_rng_state()
            frames = torch.nn.functional.pixel_unshuffle(batch["frames"], 2) * 2
            step = trainer.fit_loop.total_batch_idx
            time = pl_module.objective.sample_time(2, step=step, device="cpu")
            noised = pl_module.objective.noise(frames, time)
            reference = torch.nn.functional.pixel_unshuffle(batch["reference"], 2) * 2
            before = {k: v.clone() for k, v in pl_module.network.named_buffers()}
            prediction = pl_module.network(noised.noisy, time, reference)
            pl_module.network.load_state_dict(before, strict=False)
            self.expected = (prediction - frames).square().mean()
            torch.set_rng_state(random)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
            assert torch.allclose(outputs["losses"]["loss"], self.expected, rtol=1e-6)

    generator = toy.make_generator(condition_dropout=None)
    toy.train(tmp_path, generator=generator, callbacks=[Compare()], trainer={"max_steps": 3})


class ThreeClips(toy.ToyData):
    """Clips to validate on, in batches of any size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def val_dataloader(self) -> Any:
        batches = [list(range(900, 903))[i : i + self.size] for i in range(0, 3, self.size)]
        return DataLoader(toy.ToyClips(), batch_sampler=batches)


def test_validation_does_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    """0.709, 0.998 and 0.903 were found for batches of 1, 2 and 4 of the same clips."""
    found = []
    for size in (1, 2, 3):
        recorder = Recorder()
        trainer = {"max_steps": 5, "val_check_interval": 5}
        toy.train(tmp_path / f"{size}", data=ThreeClips(size), callbacks=[recorder], trainer=trainer)
        found.append(recorder.validation)
    assert found[0] == found[1] == found[2]


def make_still() -> toy.ToyGenerator:
    """Learns nothing, so that it is the same after any training."""
    generator = toy.make_generator(optimizer=partial(torch.optim.SGD, lr=0.0), condition_dropout=None)
    generator.network.reference = torch.nn.Identity()
    return generator


def test_validation_does_not_depend_on_the_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    """Clips that two processes both have, to be equally many each, count once."""
    monkeypatch.syspath_prepend(str(repository))
    losses = []
    for world_size in (1, 2):
        run = tmp_path / f"{world_size}"
        options: dict[str, Any] = {"trainer": {"max_steps": 1, "val_check_interval": 1}}
        processes = toy.start(run, world_size=world_size, make=make_still, **options)
        assert toy.finish(processes) == [0] * world_size
        with (run / "metrics.csv").open(newline="") as file:
            losses.append([row["val/loss"] for row in csv.DictReader(file)])
    assert losses[0] == losses[1]
    assert losses[0][0]


def test_condition_dropout_acts_in_training_and_not_in_validation(tmp_path: Path) -> None:
    class Watch(toy.ToyGenerator):
        seen: dict[bool, list[float]] = {True: [], False: []}  # noqa: RUF012

        def denoise(self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], masks: Any) -> Denoised:
            self.seen[self.training].append(conditions["reference"].abs().max().item())
            assert self.training is ("reference" in masks.keep)
            assert self.training is ("reference" in masks.nonzero)
            return super().denoise(noisy, time, conditions, masks)

    table = {"reference": {"probability": 1.0, "zero": ["reference"]}}
    generator = toy.make_generator(condition_dropout=ConditionDropout(table))
    generator.__class__ = Watch
    toy.train(tmp_path, generator=generator)
    assert max(Watch.seen[True]) == 0
    assert min(Watch.seen[False]) > 0


def test_what_a_system_zeroes_inside_reaches_it_untouched(tmp_path: Path) -> None:
    """Features that have no input of their own can be named too; a name that nobody knows is an error."""

    class ZeroesFeatures(toy.ToyGenerator):
        zeroed_inside = frozenset({"reference", "texture"})

        def denoise(self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], masks: Any) -> Denoised:
            reference = conditions["reference"]
            if self.training:
                assert reference.flatten(1).abs().amax(1).min() > 0
                assert not masks.nonzero["texture"].any()
                assert not masks.zeroed("reference", reference).any()
                assert masks.zeroed("other", reference) is reference
            return super().denoise(noisy, time, conditions, masks)

    rows = {"both": {"probability": 1.0, "zero": ["reference", "texture"]}}
    generator = toy.make_generator(condition_dropout=ConditionDropout(rows))
    generator.__class__ = ZeroesFeatures
    toy.train(tmp_path / "inside", generator=generator, trainer={"max_steps": 2})

    generator = toy.make_generator(condition_dropout=ConditionDropout(rows))
    with pytest.raises(ValueError, match="condition dropout names texture; there are reference"):
        toy.train(tmp_path / "unknown", generator=generator, trainer={"max_steps": 2})


def test_validation_sees_the_same_times_and_noise_every_time(tmp_path: Path) -> None:
    recorder = Recorder()
    generator = toy.make_generator(
        optimizer=partial(torch.optim.SGD, lr=0.0), lr_scheduler=None, condition_dropout=None
    )
    toy.train(
        tmp_path,
        generator=generator,
        callbacks=[recorder],
        trainer={"max_steps": 4, "val_check_interval": 2},
        train=["denoiser.*"],
    )
    assert len(recorder.validation) == 2
    assert recorder.validation[0] == recorder.validation[1]


def test_validation_does_not_change_the_training(tmp_path: Path) -> None:
    often = toy.train(tmp_path / "often", trainer={"val_check_interval": 1})
    never = toy.train(tmp_path / "never", trainer={"limit_val_batches": 0})
    assert all(map(torch.equal, often.state_dict().values(), never.state_dict().values()))


def test_what_is_frozen_stays_as_it_is_in_eval_mode_and_out_of_the_checkpoint(tmp_path: Path) -> None:
    before = toy.make_generator().state_dict()
    generator = toy.train(tmp_path, train=["denoiser.down_blocks.*"])
    after = generator.state_dict()

    trained = {name for name in after if name.startswith("network.denoiser.down_blocks.")}
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == trained  # the frozen batch norm's statistics too
    assert set(generator.trained_state()) == trained
    assert torch.load(tmp_path / "checkpoints/last.ckpt")["state_dict"].keys() == trained

    generator.train()
    assert set(generator.frozen_modules()) == {
        "network.reference",
        *(f"network.denoiser.{name}" for name in ("conv_in", "time_embedding", "mid_block", "up_blocks")),
        *(f"network.denoiser.{name}" for name in ("conv_norm_out", "conv_out")),
    }
    assert not any(m.training for frozen in generator.frozen_modules().values() for m in frozen.modules())
    assert generator.network.denoiser.training
    assert all(module.training for module in generator.network.denoiser.down_blocks.modules())


def test_buffers_of_what_trains_are_in_the_checkpoint(tmp_path: Path) -> None:
    generator = toy.make_generator()
    assert {"network.reference.1.running_mean", "network.reference.1.num_batches_tracked"} <= set(
        generator.trained_state()
    )


def test_only_the_network_can_train(tmp_path: Path) -> None:
    generator = toy.make_generator()
    generator.recogniser = torch.nn.Linear(2, 2)
    toy.train(tmp_path, generator=generator, trainer={"max_steps": 1})
    assert not any(parameter.requires_grad for parameter in generator.recogniser.parameters())
    assert "recogniser.weight" not in generator.trained_state()


def test_checkpoint_of_another_stage_is_refused(tmp_path: Path) -> None:
    toy.train(tmp_path, name="image")
    with pytest.raises(ValueError, match=r"stage 'image'.*trains stage 'temporal'.*another name"):
        toy.train(tmp_path, name="temporal")


def test_checkpoint_with_other_trained_weights_is_refused_and_says_which(tmp_path: Path) -> None:
    toy.train(tmp_path, train=["denoiser.conv_in.*", "denoiser.conv_out.bias"])
    with pytest.raises(ValueError, match="does not hold what this run trains") as caught:
        toy.train(tmp_path, train=["denoiser.conv_in.*", "denoiser.conv_out.weight"])
    assert "only in the checkpoint: network.denoiser.conv_out.bias" in str(caught.value)
    assert "only trained now: network.denoiser.conv_out.weight" in str(caught.value)


def test_resume_on_other_frozen_weights_is_refused(tmp_path: Path) -> None:
    toy.train(tmp_path, train=["denoiser.*"])
    generator = toy.make_generator()
    generator.network.reference[0].bias.data[0] += 1e-6
    with pytest.raises(ValueError, match=r"frozen weights are not those .* started with.*init_from"):
        toy.train(tmp_path, generator=generator, train=["denoiser.*"])


def test_checkpoints_hold_no_pickled_objects(tmp_path: Path) -> None:
    toy.train(tmp_path)
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
