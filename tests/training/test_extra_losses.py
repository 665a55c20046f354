"""Losses beside the objective's: added, logged, resumed, the same for any number of processes, in no file."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from portraitgen.diffusion.conditions import ConditionDropout, ConditionMasks
from portraitgen.diffusion.latents import PixelCodec
from portraitgen.diffusion.objective import DiffusionObjective, Noised
from portraitgen.diffusion.sampling import sample
from portraitgen.losses.gate import NoiseGate
from portraitgen.losses.loss import ForwardPass, Loss, LossValue
from portraitgen.losses.mean import Mean
from portraitgen.training.generator import Denoised, Encoded
from portraitgen.training.weights import load_weights
from tests.training import toy


class Brightness(Loss):
    """Prefers a clean estimate that a frozen network finds dark; of the rows that it is told to look at."""

    figures = ("rows", "level")

    def __init__(self, of: tuple[int, ...] = (0, 1, 2, 3), **settings: Any) -> None:
        super().__init__(**settings)
        torch.manual_seed(3)
        self.eye = nn.Sequential(nn.Conv2d(12, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
        self.of = of

    def forward(self, seen: ForwardPass) -> LossValue:
        chosen = [int(key.rpartition("-")[2]) % 4 in self.of for key in seen.batch["key"]]
        rows = torch.tensor(chosen).nonzero().flatten()
        found = self.eye(seen.clean_estimate[rows].flatten(0, 1)).square().flatten(1).mean(1)
        found = found.unflatten(0, (len(rows), -1)).mean(1) if len(rows) else found
        weighted = self.row_weights(seen)[rows] * found
        everyone = torch.tensor(chosen)
        return LossValue(
            Mean.over(weighted), {"rows": Mean.over(everyone), "level": Mean.over(seen.noise_level[rows])}
        )


class Texture(Brightness):
    """Looks at a by-product of the network, which no other loss trains."""

    needs = ("texture",)
    figures = ()

    def forward(self, seen: ForwardPass) -> LossValue:
        chosen = torch.tensor([int(key.rpartition("-")[2]) % 4 in self.of for key in seen.batch["key"]])
        return LossValue(Mean.over((1 - seen.by_products["texture"]["only"]).square().mean(1)[chosen]))


class PlainNetwork(nn.Module):
    """Neither dropout nor batch statistics: a sample's gradient does not depend on the batch around it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(24, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 12, 3, padding=1))
        self.texture = nn.Linear(12, 3)


class PlainGenerator(toy.ToyGenerator):
    by_products = frozenset({"texture", "unwanted"})

    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], masks: ConditionMasks
    ) -> Denoised:
        reference = conditions["reference"][:, None].expand_as(noisy)
        prediction = self.network.body(torch.cat([noisy, reference], 2).flatten(0, 1))
        prediction = prediction.unflatten(0, noisy.shape[:2])
        texture = {"texture": {"only": self.network.texture(prediction.mean((1, 3, 4)))}}
        return Denoised(prediction, texture if "texture" in self.wanted else {})


class FixedObjective(DiffusionObjective):
    """Noise of a sample depends on the sample alone."""

    def sample_time(self, batch_size: int, *, step: int, device: Any, **where: Any) -> Tensor:
        return torch.full((batch_size,), 100 + 50 * step, device=device)

    def noise(self, clean: Tensor, time: Tensor, **given: Any) -> Noised:
        return super().noise(clean, time, noise=torch.sin(50 * clean.roll(1, dims=-1)))


def make_plain(losses: dict[str, Loss] | None = None) -> PlainGenerator:
    torch.manual_seed(0)
    generator = PlainGenerator(
        PlainNetwork(),
        PixelCodec(2),
        FixedObjective(DDIMScheduler(prediction_type="sample")),
        optimizer=partial(torch.optim.SGD, lr=0.1),
    )
    generator.use_losses(losses or {})
    return generator


def make_with_rows() -> PlainGenerator:
    """Of 4 samples only the first has something for the one loss, the third and fourth for the other."""
    return make_plain(
        {
            "first": Brightness((0,), weight=2.0, gate=NoiseGate("squared")),
            "rare": Texture((2, 3), weight=0.5, every=2),
        }
    )


def rows_of(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    return [{k: float(v) for k, v in row.items() if v and not k.startswith("perf/")} for row in rows]


class Outputs(Callback):
    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *args: Any) -> None:
        self.found.append(outputs)


@pytest.fixture(autouse=True)
def _importable_in_processes(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.syspath_prepend(str(repository))


def test_losses_are_weighted_and_added_under_the_same_names_at_every_step(tmp_path: Path) -> None:
    outputs = Outputs()
    losses = {"bright": Brightness((0, 1), weight=2.0), "rare": Texture(weight=0.5, every=2)}
    toy.train(tmp_path, generator=make_plain(losses), callbacks=[outputs], trainer={"max_steps": 4})
    for step, output in enumerate(outputs.found):
        found = output["losses"]
        assert {*found} == {"loss", "loss_diffusion", "loss_bright", "loss_rare"}
        assert {*output["figures"]} == {"bright_rows", "bright_level"}
        # Clips 0 and 1, then 2 and 3, of which the loss looks at none, and so on.
        assert (found["loss_bright"] > 0).item() is (step % 2 == 0)
        assert (found["loss_rare"] > 0).item() is (step % 2 == 0)
        assert found["loss"] == found["loss_diffusion"] + found["loss_bright"] + found["loss_rare"]

    alone = Outputs()
    halved = {"bright": Brightness((0, 1), weight=1.0)}
    toy.train(tmp_path / "alone", generator=make_plain(halved), callbacks=[alone], trainer={"max_steps": 1})
    twice, once = outputs.found[0]["losses"]["loss_bright"], alone.found[0]["losses"]["loss_bright"]
    torch.testing.assert_close(twice, 2 * once)


def test_a_loss_changes_what_is_learnt_and_none_changes_nothing(tmp_path: Path) -> None:
    def trained(name: str, losses: dict[str, Loss]) -> dict[str, Tensor]:
        run = toy.train(tmp_path / name, generator=make_plain(losses), trainer={"max_steps": 2})
        return {key: value.clone() for key, value in run.network.state_dict().items()}

    plain = trained("plain", {})
    weightless = trained("weightless", {"bright": Brightness(weight=0.0)})
    bright = trained("bright", {"bright": Brightness(weight=2.0)})
    for name in ("body.0.weight", "body.2.bias"):
        torch.testing.assert_close(weightless[name], plain[name], rtol=1e-6, atol=1e-8)
        assert (bright[name] - plain[name]).abs().max() > 1e-4
    assert all(torch.equal(each["texture.weight"], plain["texture.weight"]) for each in (weightless, bright))


def test_by_products_are_made_when_a_loss_looks_at_them() -> None:
    assert make_plain().wanted == frozenset()
    assert make_with_rows().wanted == {"texture"}
    generator = toy.make_generator()
    with pytest.raises(ValueError, match=r"losses\.t needs 'texture' .* ToyGenerator gives nothing"):
        generator.use_losses({"t": Texture(weight=1.0)})
    with pytest.raises(ValueError, match=r"losses\.diffusion"):
        generator.use_losses({"diffusion": Brightness(weight=1.0)})
    with pytest.raises(ValueError, match="every is 0"):
        Brightness(weight=1.0, every=0)


def test_two_processes_of_which_one_has_no_rows_learn_what_one_does(tmp_path: Path) -> None:
    """Rows are counted over both; the network's branch for the loss gets a gradient on both: DDP waits."""
    options: dict[str, Any] = {"make": make_with_rows, "every_steps": 1, "trainer": {"max_steps": 4}}
    one, two = tmp_path / "one", tmp_path / "two"
    assert toy.finish(toy.start(one, world_size=1, batch_size=4, **options)) == [0]
    assert toy.finish(toy.start(two, world_size=2, batch_size=2, **options)) == [0, 0]

    expected, _ = load_weights(one / "weights/last.safetensors")
    found, _ = load_weights(two / "weights/last.safetensors")
    start = make_with_rows().network.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)
        assert not torch.allclose(value, start[name], atol=1e-5), name
    for single, double in zip(rows_of(one), rows_of(two), strict=True):
        assert double == pytest.approx(single, rel=1e-4)
        assert single["train/first_rows"] == 0.25


@pytest.mark.parametrize("accumulate", [1, 2])
def test_figures_are_means_over_all_that_was_counted_and_survive_a_resume(
    tmp_path: Path, accumulate: int
) -> None:
    def run(folder: Path, *stops: int) -> list[dict[str, Any]]:
        outputs = Outputs()
        for steps in stops:
            toy.train(
                folder,
                generator=make_with_rows(),
                callbacks=[outputs],
                accumulate=accumulate,
                every_steps=5,
                save_every=2,
                trainer={"max_steps": steps},
            )
        return outputs.found

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    outputs = run(whole, 5)
    run(stopped, 4, 5)
    # The stopped run logs once more, at the step that was its last.
    assert rows_of(stopped)[0]["step"] == 4
    (row,) = rows_of(whole)
    pairs = torch.stack([output["figures"]["first_level"] for output in outputs])
    assert 0 < pairs[:, 1].sum() < 2 * len(outputs), "some batches have nothing to say, and are not counted"
    total, count = pairs.double().sum(0)
    assert row["train/first_level"] == pytest.approx((total / count).item())
    assert row["train/first_rows"] == pytest.approx(count.item() / (2 * len(outputs)))


def test_a_resumed_run_ends_as_one_that_was_left_alone(tmp_path: Path) -> None:
    """Stopped within a window of the log: its first half is in the checkpoint."""

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 3:
                raise KeyError("stopped")

    options: dict[str, Any] = {"every_steps": 5, "save_every": 2, "trainer": {"max_steps": 5}}
    toy.train(tmp_path / "whole", generator=make_with_rows(), **options)
    with pytest.raises(KeyError, match="stopped"):
        toy.train(tmp_path / "stopped", generator=make_with_rows(), callbacks=[Stop()], **options)
    toy.train(tmp_path / "stopped", generator=make_with_rows(), **options)
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "whole")
    stopped, whole = (tmp_path / name / "weights/last.safetensors" for name in ("stopped", "whole"))
    assert stopped.read_bytes() == whole.read_bytes()


def test_validation_logs_losses_and_figures_over_all_its_batches(tmp_path: Path) -> None:
    """Of clips 900 to 903 clip 900 counts; every loss is computed, whatever its `every`."""
    toy.train(
        tmp_path,
        generator=make_with_rows(),
        every_steps=2,
        trainer={"max_steps": 2, "val_check_interval": 2},
    )
    (row,) = rows_of(tmp_path)
    assert row["val/first_rows"] == 0.25
    assert row["val/first_level"] == pytest.approx(0.1)
    assert row["val/loss_rare"] > 0
    assert row["val/loss"] == pytest.approx(
        row["val/loss_diffusion"] + row["val/loss_first"] + row["val/loss_rare"]
    )


def test_networks_of_losses_are_frozen_float32_in_eval_mode_and_in_no_file(tmp_path: Path) -> None:
    loss = Brightness(weight=1.0).half()
    before = {name: value.clone() for name, value in loss.float().state_dict().items()}
    loss.half()
    generator = make_plain({"bright": loss})
    toy.train(tmp_path, generator=generator, trainer={"max_steps": 3, "val_check_interval": 1})
    assert not loss.training
    assert not loss.eye[1].training
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert {value.dtype for value in loss.state_dict().values()} == {torch.float32, torch.int64}
    after = loss.state_dict()
    assert all(torch.allclose(after[name], before[name], atol=1e-3) for name in before), "no statistics move"

    names = {name.split(".")[0] for name in generator.state_dict()}
    assert names == {"network"}
    assert not [name for name, _ in generator.named_parameters() if "eye" in name]
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert not [name for name in checkpoint["state_dict"] if "eye" in name]
    tensors, _ = load_weights(tmp_path / "weights/last.safetensors")
    assert {*tensors} == {*PlainNetwork().state_dict()}


def test_in_mixed_precision_losses_compute_in_float32(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    class Look(Brightness):
        def forward(self, one: ForwardPass) -> LossValue:
            seen["estimate"] = one.clean_estimate.dtype
            seen["eye"] = self.eye(one.clean_estimate.flatten(0, 1)).dtype
            seen["again"] = one.predict(one.noised.noisy, one.time).dtype
            seen["pictures"] = one.decode(one.clean_estimate).shape
            return super().forward(one)

    generator = make_plain({"bright": Look(weight=1.0)})
    toy.train(tmp_path, generator=generator, trainer={"max_steps": 1, "precision": "bf16-mixed"})
    assert seen["estimate"] == seen["eye"] == torch.float32
    assert seen["again"] == torch.bfloat16, "the network goes on as the run does"
    assert seen["pictures"] == (2, toy.CLIP_FRAMES, 3, toy.SIZE, toy.SIZE)


def test_a_loss_can_look_at_what_a_few_steps_draw(tmp_path: Path) -> None:
    """As PuLID's accurate identity loss: from noise in 3 steps, with gradients through the last one."""
    calls: list[bool] = []

    class Drawn(Brightness):
        def forward(self, seen: ForwardPass) -> LossValue:
            def predict(noisy: Tensor, time: Tensor) -> Tensor:
                calls.append(torch.is_grad_enabled())
                return seen.predict(noisy, time)

            steps = DDIMScheduler(prediction_type="sample", timestep_spacing="trailing")
            drawn = sample(predict, steps, seen.noised.noise, num_steps=3, gradients=1)
            return LossValue(Mean.over(drawn.square()), {"rows": Mean.over(drawn), "level": Mean.over(drawn)})

    one = toy.train(
        tmp_path / "a", generator=make_plain({"drawn": Drawn(weight=9.0)}), trainer={"max_steps": 1}
    )
    none = toy.train(tmp_path / "b", generator=make_plain(), trainer={"max_steps": 1})
    assert calls == [False, False, True]
    assert not torch.equal(one.network.body[0].weight, none.network.body[0].weight)


class MaskedGenerator(PlainGenerator):
    """A mask over the left half of the frames; of 4 clips the second has an empty one."""

    def encode(self, batch: dict[str, Any]) -> Encoded:
        encoded = super().encode(batch)
        full = torch.tensor([int(key.rpartition("-")[2]) % 4 != 1 for key in batch["key"]])
        mask = torch.zeros(len(full), toy.CLIP_FRAMES, 1, *encoded.clean.shape[-2:])
        mask[full, ..., : mask.shape[-1] // 2] = 1
        return Encoded(encoded.clean, encoded.conditions, mask)


def masked(probability: float, *, lr: float = 0.1) -> MaskedGenerator:
    generator = make_plain()
    generator.__class__ = MaskedGenerator
    generator.objective.mask_probability = probability
    generator._make_optimizer = partial(torch.optim.SGD, lr=lr)
    return generator


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_loss_inside_masks_and_how_many_were_empty(tmp_path: Path, probability: float) -> None:
    class Compare(Callback):
        """Writes the loss out by hand."""

        def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, index: int) -> None:
            with torch.no_grad():
                encoded = module.encode(batch)
                time = module.objective.sample_time(2, step=index, device="cpu")
                noised = module.objective.noise(encoded.clean, time)
                found = module.denoise(noised.noisy, time, encoded.conditions, ConditionMasks()).prediction
            error = (found - encoded.clean).square()
            left, plain = (each.flatten(1).mean(1) for each in (error[..., : error.shape[-1] // 2], error))
            full = encoded.mask.flatten(1).any(1)
            self.expected = torch.where(full & (probability == 1), left, plain).mean()

        def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *args: Any) -> None:
            torch.testing.assert_close(outputs["losses"]["loss"], self.expected, rtol=1e-5, atol=0)

    toy.train(
        tmp_path,
        generator=masked(probability),
        callbacks=[Compare()],
        every_steps=6,
        trainer={"max_steps": 6, "val_check_interval": 6},
    )
    (row,) = rows_of(tmp_path)
    assert row["train/mask_empty"] == 0.25
    assert row["val/mask_empty"] == 0.25


def test_validation_takes_the_expectation_of_what_training_draws(tmp_path: Path) -> None:
    found = {}
    for probability in (0.0, 0.5, 1.0):
        run = tmp_path / str(probability)
        trainer = {"max_steps": 2, "val_check_interval": 2}
        toy.train(run, generator=masked(probability, lr=0.0), trainer=trainer)
        (row,) = rows_of(run)
        found[probability] = row["val/loss"]
    assert abs(found[0.0] - found[1.0]) > 5e-4
    assert found[0.5] == pytest.approx((found[0.0] + found[1.0]) / 2, abs=2e-6)


def test_conditions_that_were_dropped_are_told_to_losses(tmp_path: Path) -> None:
    told: list[Tensor] = []

    class Ask(Brightness):
        def forward(self, seen: ForwardPass) -> LossValue:
            told.append(seen.nonzero["reference"])
            assert not seen.conditions["reference"][~seen.nonzero["reference"]].any()
            assert seen.keep["reference"].all()
            return super().forward(seen)

    generator = make_plain({"ask": Ask(weight=1.0)})
    generator.condition_dropout = ConditionDropout({"r": {"probability": 0.5, "zero": ["reference"]}})
    toy.train(tmp_path, generator=generator, trainer={"max_steps": 4, "limit_val_batches": 0})
    assert len(told) == 4
