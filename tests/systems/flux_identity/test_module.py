"""What a training step learns, drops and hands on."""

import pytest
import torch

from portraitgen.diffusion.conditions import ConditionDropout, ConditionMasks, zero_conditions
from portraitgen.diffusion.objective import FlowMatching
from tests.systems.flux_identity import tiny


@pytest.fixture(params=tiny.WAYS)
def module(request):
    made = tiny.build(request.param).eval()
    tiny.train_adapters(made.network)
    return made


def noised(module, batch):
    torch.manual_seed(4)
    encoded = module.encode(batch)
    made = module.objective.noise(encoded.clean, torch.tensor([0.3, 0.8]))
    return encoded, made


def test_the_true_flow_is_no_loss_and_gives_the_clean_picture(module):
    batch = tiny.batch()
    encoded, made = noised(module, batch)
    assert torch.equal(made.target, made.noise - encoded.clean)
    assert module.objective.loss(made.target, made, encoded.mask).abs().max() == 0
    torch.testing.assert_close(
        module.objective.clean_estimate(made.target, made), encoded.clean, rtol=0, atol=2e-6
    )
    picture = module.conditioning.result(module.codec.decode(encoded.clean))
    torch.testing.assert_close(picture, batch["result"])


def test_times_are_those_of_the_recipe_and_others_on_demand():
    module = tiny.build("kontext")
    times = torch.cat([module.objective.sample_time(64, step=step, device="cpu") for step in range(200)])
    logits = torch.logit(times.double())
    assert logits.mean().abs() < 0.02
    assert logits.std().item() == pytest.approx(1, abs=0.02)
    assert ((times > 0) & (times < 1)).all()
    other = tiny.build("kontext", "model.objective.distribution=uniform", "model.objective.shift=3.0")
    assert isinstance(other.objective, FlowMatching)
    shifted = other.objective.sample_time(4096, step=0, device="cpu")
    assert shifted.mean().item() == pytest.approx(0.676, abs=0.01), "the mean of 3u/(1 + 2u)"


def test_a_diptych_learns_its_right_half_only():
    module = tiny.build("fill_diptych").eval()
    encoded, made = noised(module, tiny.batch())
    assert encoded.clean.shape == (2, 12, 32, 64)
    wrong = made.target.clone()
    wrong[..., :32] += 5
    assert module.objective.loss(wrong, made, encoded.mask).abs().max() == 0
    wrong[..., 32:] += 1
    torch.testing.assert_close(module.objective.loss(wrong, made, encoded.mask), torch.ones(2))


def test_the_hole_is_told_pixel_by_pixel_beside_the_photo_without_it():
    module = tiny.build("fill_diptych").eval()
    batch = tiny.batch()
    given = module.encode(batch).conditions["given"]
    assert given.shape == (2, 12 + 4, 32, 64)
    pixels = module.codec.decode(given[:, :12])
    torch.testing.assert_close(pixels[..., :64], batch["ref"])
    torch.testing.assert_close(pixels[..., 64:], batch["src"])
    hole = torch.nn.functional.pixel_shuffle(given[:, 12:], 2)
    assert torch.equal(hole[..., 64:], batch["mask"])
    assert hole[..., :64].abs().max() == 0


@pytest.mark.parametrize("way", ["fill_diptych", "kontext"])
def test_the_reference_has_a_say_until_it_is_zeroed(way):
    module = tiny.build(way).eval()
    tiny.train_adapters(module.network)
    encoded, made = noised(module, tiny.batch())
    other = dict(encoded.conditions, ref=torch.randn_like(encoded.conditions["ref"]))

    def predict(conditions):
        with torch.no_grad():
            return module.denoise(made.noisy, made.time, conditions, ConditionMasks()).prediction

    assert (predict(encoded.conditions) - predict(other)).abs().max() > 1e-3
    masks = ConditionDropout({"ref": {"probability": 1.0, "zero": ["ref"]}}).draw(2, device="cpu")
    one, two = (zero_conditions(conditions, masks) for conditions in (encoded.conditions, other))
    assert torch.equal(predict(one), predict(two))


def test_only_adapters_have_gradients_and_all_of_them(module):
    module.requires_grad_(False)
    for name, parameter in module.network.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    encoded, made = noised(module.train(), tiny.batch())
    prediction = module.denoise(made.noisy, made.time, encoded.conditions, ConditionMasks()).prediction
    module.objective.loss(prediction, made, encoded.mask).mean().backward()
    for name, parameter in module.named_parameters():
        if ".lora_" in name:
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name


def test_a_sample_depends_on_its_own_row_and_seed(module):
    batch = tiny.batch()
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    both = module.sample(batch, generator=seeds)
    assert both.shape == (2, 3, 64, 64)
    assert both.abs().max() <= 1
    second = {name: value[1:] for name, value in batch.items()}
    alone = module.sample(second, generator=[torch.Generator().manual_seed(2)])
    torch.testing.assert_close(alone, both[1:], rtol=0, atol=1e-5)


def test_what_is_shown(module):
    shown = [*module.shown(tiny.batch())]
    way = type(module.conditioning).__name__
    assert (
        shown
        == {
            "FillDiptych": ["reference", "given", "truth"],
            "Kontext": ["reference", "truth"],
            "TextOnly": ["truth"],
        }[way]
    )


def test_what_cannot_be_is_refused_by_name(module):
    with pytest.raises(ValueError, match="train on data=pairs"):
        module.encode({"key": ["a"], "image": torch.zeros(1, 3, 64, 64)})
    with pytest.raises(ValueError, match="both sides must be multiples of 4"):
        module.sample({"key": ["a"], "size": (62, 64)})
    if type(module.conditioning).__name__ == "FillDiptych":
        batch = tiny.batch() | {"ref": torch.zeros(2, 3, 32, 32)}
        with pytest.raises(ValueError, match=r"reference is \[32, 32\] and the photo \[64, 64\]"):
            module.encode(batch)
