"""Objectives: the official losses, clean estimates exact at all steps, finite weights, safe masks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from safetensors.torch import load_file
from torch import Tensor

from portraitgen.diffusion.objective import (
    DiffusionObjective,
    FlowMatching,
    Noised,
    Objective,
    is_empty,
    masked_mean,
    min_snr_weight,
)

ANIPORTRAIT = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
TYPES = ["epsilon", "v_prediction", "sample"]


def ddim(prediction_type: str, *, zero_snr: bool = False) -> DDIMScheduler:
    return DDIMScheduler(
        **ANIPORTRAIT | {"prediction_type": prediction_type, "rescale_betas_zero_snr": zero_snr}
    )


def noised_clip(objective: Objective, *, batch_size: int = 4) -> Noised:
    torch.manual_seed(0)
    time = objective.sample_time(batch_size, step=0, device="cpu")
    return objective.noise(torch.randn(batch_size, 3, 4, 2, 2), time)


def test_aniportrait_golden(shared: Path) -> None:
    golden = load_file(shared / "golden/aniportrait_scheduler_loss.safetensors")
    scheduler = DDIMScheduler(**ANIPORTRAIT)
    # Not to the bit: the order in which a CPU multiplies a thousand factors depends on its vector unit.
    torch.testing.assert_close(scheduler.alphas_cumprod, golden["train_alphas_cumprod"], atol=1e-6, rtol=1e-5)
    objective = DiffusionObjective(scheduler, min_snr_gamma=5.0)
    noised = objective.noise(golden["x0"], golden["snr_t"], noise=golden["noise"])
    close = {"atol": 2e-6, "rtol": 0}
    torch.testing.assert_close(noised.noisy, golden["noisy"], **close)
    torch.testing.assert_close(noised.target, golden["velocity"], **close)
    torch.testing.assert_close(noised.weight, golden["min_snr_weight_g5_v"], **close)
    loss = objective.loss(golden["pred"], noised).mean()
    torch.testing.assert_close(loss, golden["loss"][0], **close)


def test_consisid_golden(shared: Path) -> None:
    """Its loss, the error of the clean estimate over 1 − ᾱ, is the plain error of the velocity."""
    golden = json.loads((shared / "golden/consisid_loss_numerics.json").read_text())
    objective = DiffusionObjective(CogVideoXDDIMScheduler(**golden["scheduler_config"]))
    generator = torch.Generator().manual_seed(0)
    cases = {case["t"]: case for case in golden["cases"]}
    # The recorded draws ran over more steps than the file keeps losses of.
    for step, alpha_cumprod in golden["alphas_cumprod"].items():
        clean, noise, prediction = (torch.randn(1, 13, 16, 8, 12, generator=generator) for _ in range(3))
        if int(step) not in cases:
            continue
        case = cases[int(step)]
        noised = objective.noise(clean, torch.tensor([int(step)]), noise=noise)
        loss = objective.loss(prediction, noised).item()
        assert loss == pytest.approx(case["v_mse_fp32"], abs=1e-6)
        error = (objective.clean_estimate(prediction, noised) - clean).square().mean().item()
        assert error / (1 - alpha_cumprod) == pytest.approx(case["official_fp32"], rel=1e-4)
    # In bfloat16, as it is coded there, these two steps teach nothing.
    noised = objective.noise(clean.expand(2, -1, -1, -1, -1), torch.tensor([0, 1]))
    zeros = torch.zeros_like(noised.target).requires_grad_()
    objective.loss(zeros, noised).sum().backward()
    assert zeros.grad.flatten(1).norm(dim=1).min() > 0


def test_a_perfect_model_in_half_precision_has_next_to_no_loss() -> None:
    """Noised in bfloat16 as well, ConsisID's loss of a perfect model is 3e-3 at step 10."""
    objective = DiffusionObjective(ddim("v_prediction", zero_snr=True))
    time = torch.tensor([0, 10, 100, 500, 900, 999])
    noised = objective.noise(torch.randn(6, 4, 16, 16).bfloat16(), time)
    assert objective.loss(noised.target.bfloat16(), noised).max() < 1e-5


@pytest.mark.parametrize(
    ("prediction_type", "zero_snr"),
    [
        ("epsilon", False),
        ("v_prediction", False),
        ("sample", False),
        ("v_prediction", True),
        ("sample", True),
    ],
)
def test_true_target_gives_back_the_clean_sample_at_every_step(prediction_type: str, zero_snr: bool) -> None:
    objective = DiffusionObjective(ddim(prediction_type, zero_snr=zero_snr))
    clean = torch.randn(1000, 4, 3, 3, dtype=torch.float32)
    noised = objective.noise(clean, torch.arange(1000))
    estimate = objective.clean_estimate(noised.target, noised)
    # ε is divided by α, which is 0.07 at the last step.
    torch.testing.assert_close(estimate, clean, atol=1e-5, rtol=0)
    assert bool((objective.loss(noised.target, noised) == 0).all())


@pytest.mark.parametrize("prediction_type", TYPES)
def test_agrees_with_the_scheduler(prediction_type: str) -> None:
    scheduler = ddim(prediction_type)
    clean, noise, time = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3), torch.arange(0, 1000, 125)
    noised = DiffusionObjective(scheduler).noise(clean, time, noise=noise)
    torch.testing.assert_close(noised.noisy, scheduler.add_noise(clean, noise, time))
    targets = {"epsilon": noise, "v_prediction": scheduler.get_velocity(clean, noise, time), "sample": clean}
    torch.testing.assert_close(noised.target, targets[prediction_type])
    assert torch.equal(noised.weight, torch.ones(8))


@pytest.mark.parametrize("prediction_type", TYPES)
def test_min_snr_bounds_the_weight_on_the_clean_sample(prediction_type: str) -> None:
    """A loss on ε is SNR times, one on v SNR + 1 times the loss on the clean sample."""
    snr = torch.logspace(-6, 6, 100, dtype=torch.float64)
    implied = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[prediction_type]
    bound = {"epsilon": snr, "v_prediction": snr + 1, "sample": snr}[prediction_type].clamp(max=5.0)
    weight = min_snr_weight(snr, gamma=5.0, prediction_type=prediction_type)
    torch.testing.assert_close(weight * implied, bound)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_min_snr_is_finite_at_both_ends(prediction_type: str) -> None:
    ends = torch.tensor([0.0, float("inf")])
    weight = min_snr_weight(ends, gamma=5.0, prediction_type=prediction_type)
    expected = {"epsilon": [1.0, 0.0], "v_prediction": [1.0, 0.0], "sample": [0.0, 5.0]}
    assert weight.tolist() == expected[prediction_type]


def test_losses_of_the_types_are_one_loss_under_their_weights() -> None:
    """For the same clean estimate: error(ε) = SNR · error(x), error(v) = (SNR + 1) · error(x)."""
    scheduler = ddim("epsilon")
    clean, noise, error = torch.randn(3, 8, 4, 3, 3, dtype=torch.float64)
    time = torch.arange(0, 1000, 125)
    alphas = scheduler.alphas_cumprod[time].double()
    snr, alpha, sigma = alphas / (1 - alphas), alphas.sqrt(), (1 - alphas).sqrt()
    losses = {}
    for prediction_type in TYPES:
        objective = DiffusionObjective(ddim(prediction_type))
        noised = objective.noise(clean, time, noise=noise)
        estimate = clean + error
        a, s = (level.view(-1, 1, 1, 1) for level in (alpha, sigma))
        predictions = {
            "epsilon": (noised.noisy - a * estimate) / s,
            "v_prediction": (a * noised.noisy - estimate) / s,
            "sample": estimate,
        }
        torch.testing.assert_close(
            objective.clean_estimate(predictions[prediction_type], noised), estimate, atol=1e-5, rtol=0
        )
        losses[prediction_type] = objective.loss(predictions[prediction_type], noised)
    torch.testing.assert_close(losses["epsilon"], snr * losses["sample"], rtol=1e-4, atol=0)
    torch.testing.assert_close(losses["v_prediction"], (snr + 1) * losses["sample"], rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (lambda: ddim("epsilon", zero_snr=True), "zero terminal SNR"),
        (lambda: ddim("velocity"), "'velocity': use one of epsilon, v_prediction, sample"),
    ],
)
def test_impossible_objectives(scheduler: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionObjective(scheduler())


@pytest.mark.parametrize("shape", [(200, 4, 8, 8), (200, 3, 4, 8, 8)])
def test_noise_offset_is_shared_by_pixels_and_frames(shape: tuple[int, ...]) -> None:
    clean, time = torch.zeros(shape), torch.zeros(shape[0], dtype=torch.long)
    scheduler = ddim("epsilon")
    plain, shifted = (
        DiffusionObjective(scheduler, noise_offset=offset)
        .noise(clean, time, generator=torch.Generator().manual_seed(0))
        .noise
        for offset in (0.0, 0.05)
    )
    offset = (shifted - plain).movedim(-3, 1).flatten(2)
    torch.testing.assert_close(offset, offset[..., :1].expand_as(offset), atol=1e-6, rtol=0)
    assert offset[..., 0].std().item() == pytest.approx(0.05, rel=0.1)
    neighbours = torch.corrcoef(offset[..., 0].T)
    assert (neighbours - torch.eye(4)).abs().max() < 0.3, "each channel has its own"
    given = DiffusionObjective(scheduler, noise_offset=0.05).noise(clean, time, noise=plain).noise
    assert given is plain


@pytest.mark.parametrize("objective", [DiffusionObjective(ddim("v_prediction")), FlowMatching()])
def test_noise_of_the_frames_is_independent(objective: Objective) -> None:
    noise = objective.noise(torch.zeros(1, 4, 4, 64, 64), torch.zeros(1, dtype=torch.long)).noise
    assert (torch.corrcoef(noise[0].flatten(1)) - torch.eye(4)).abs().max() < 0.05


@pytest.mark.parametrize("objective", [DiffusionObjective(ddim("v_prediction")), FlowMatching()])
def test_half_precision_inputs_are_noised_in_float32(objective: Objective) -> None:
    time = objective.sample_time(2, step=0, device="cpu")
    noised = objective.noise(torch.randn(2, 4, 3, 3, dtype=torch.bfloat16), time)
    assert {noised.noisy.dtype, noised.target.dtype, noised.noise.dtype} == {torch.float32}
    estimate = objective.clean_estimate(noised.target, noised)
    torch.testing.assert_close(estimate, noised.clean, atol=1e-6, rtol=0)
    assert objective.loss(noised.target.bfloat16(), noised).dtype == torch.float32


def test_masked_loss_golden(shared: Path) -> None:
    golden = json.loads((shared / "golden/consisid_masked_loss.json").read_text())

    def wave(shape: tuple[int, ...], rate: float) -> Tensor:
        count = torch.Size(shape).numel()
        return torch.cos(rate * torch.arange(count, dtype=torch.float64) + rate).view(shape)

    prediction, target = wave((2, 3, 4, 4, 6), 0.31), wave((2, 3, 4, 4, 6), 0.17)
    weight = torch.tensor([1.5, 3.0], dtype=torch.float64)
    noised = Noised(target, target, weight, target, torch.zeros(2), target)
    left = (torch.arange(6) < 3).double().expand(2, 3, 1, 4, 6)
    first_empty = torch.ones(2, 3, 1, 4, 6) * torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1)
    masks = {
        "all_ones": torch.ones(2, 3, 1, 4, 6),
        "left_half": left,
        "soft": ((wave((2, 1, 3, 4, 6), 0.7) + 1) / 2).transpose(1, 2),
        "sample0_zero": first_empty,
        "all_zero": torch.zeros(2, 3, 1, 4, 6),
    }
    objective = FlowMatching()
    plain = objective.loss(prediction, noised)
    for case in golden["cases"]:
        mask = masks[case["mask"]]
        loss = objective.loss(prediction, noised, mask)
        # Each sample alone; where its mask is empty, all its elements.
        fallen_back = [alone is None for alone in case["per_sample_masked"]]
        whole_losses = zip(case["per_sample_masked"], plain.tolist(), strict=True)
        expected = [unmasked if alone is None else alone for alone, unmasked in whole_losses]
        assert is_empty(mask).tolist() == fallen_back
        assert loss.tolist() == pytest.approx(expected, rel=1e-9), case["mask"]
        assert plain.mean().item() == pytest.approx(case["unmasked"], rel=1e-9)

        # Official: one mean over the masks of the whole batch, so that a large face counts more.
        error = weight.view(2, 1, 1, 1, 1) * (prediction - target).square()
        whole = masked_mean(error.flatten()[None], mask.expand_as(error).flatten()[None]).item()
        if case["official_is_nan"]:
            assert whole == 0
            assert loss.mean().item() == pytest.approx(2.29521870, rel=1e-8), "not NaN: the unmasked loss"
        else:
            assert whole == pytest.approx(case["official"], rel=1e-9), case["mask"]


def test_an_empty_mask_falls_back_to_all_elements_sample_by_sample() -> None:
    objective = FlowMatching()
    noised = noised_clip(objective)
    prediction = torch.randn_like(noised.target, requires_grad=True)
    mask = torch.zeros(4, 3, 1, 2, 2)
    mask[1:, ..., 0] = 1
    loss = objective.loss(prediction, noised, mask)
    loss.sum().backward()
    plain = objective.loss(prediction, noised)
    assert loss[0] == plain[0]
    assert not torch.isclose(loss[1:], plain[1:]).any()
    assert prediction.grad is not None
    assert bool((prediction.grad[0] != 0).all())
    assert bool((prediction.grad[1:, ..., 0] != 0).all())
    assert bool((prediction.grad[1:, ..., 1] == 0).all())


def test_only_some_samples_look_at_their_mask() -> None:
    objective = DiffusionObjective(ddim("v_prediction"), mask_probability=0.25)
    noised = noised_clip(objective)
    prediction, mask = torch.randn_like(noised.target), torch.zeros(4, 3, 1, 2, 2)
    mask[..., 0, :] = 1
    inside, plain = objective.loss(prediction, noised, mask), objective.loss(prediction, noised)
    found = objective.loss(prediction, noised, mask, masked=torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert torch.equal(found, torch.stack([inside[0], plain[1], plain[2], inside[3]]))
    expected = objective.loss(prediction, noised, mask, masked=objective.mask_probability)
    torch.testing.assert_close(expected, 0.25 * inside + 0.75 * plain)

    torch.manual_seed(0)
    drawn = objective.draw_masked(20_000, device="cpu")
    assert set(drawn.tolist()) == {0.0, 1.0}
    assert drawn.mean().item() == pytest.approx(0.25, abs=0.015)
    before = torch.get_rng_state()
    assert FlowMatching().draw_masked(3, device="cpu").tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(torch.get_rng_state(), before), "nothing is drawn where there is no choice"
    with pytest.raises(ValueError, match=r"mask_probability is 1\.5"):
        FlowMatching(mask_probability=1.5)


@pytest.mark.parametrize("objective", [DiffusionObjective(ddim("v_prediction")), FlowMatching()])
def test_noise_levels_go_from_clean_to_noise(objective: Objective) -> None:
    time = (
        torch.tensor([0, 250, 999]) if isinstance(objective, DiffusionObjective) else torch.rand(3).sort()[0]
    )
    level = objective.noise_level(time)
    assert level.dtype == torch.float32
    assert level.tolist() == sorted(level.tolist())
    assert level.min() >= 0
    assert level.max() <= 1
    if isinstance(objective, DiffusionObjective):
        assert level.tolist() == pytest.approx([0.0, 0.25, 0.999])


def test_a_model_that_predicts_more_channels_is_an_error() -> None:
    objective = FlowMatching()
    noised = noised_clip(objective)
    with pytest.raises(ValueError, match=r"\[4, 3, 8, 2, 2\] where the target is \[4, 3, 4, 2, 2\]"):
        objective.loss(torch.zeros(4, 3, 8, 2, 2), noised)


@pytest.mark.parametrize("objective", [DiffusionObjective(ddim("epsilon")), FlowMatching()])
def test_a_generator_repeats_times_and_noise(objective: Objective) -> None:
    def example(seed: int) -> Noised:
        generator = torch.Generator().manual_seed(seed)
        time = objective.sample_time(4, step=1, device="cpu", generator=generator)
        return objective.noise(torch.zeros(4, 2, 3, 3), time, generator=generator)

    assert torch.equal(example(0).noisy, example(0).noisy)
    assert not torch.equal(example(0).noisy, example(1).noisy)


def test_diffusion_times_are_steps_of_the_schedule_on_all_ranks() -> None:
    objective = DiffusionObjective(ddim("epsilon"))
    drawn = torch.cat(
        [objective.sample_time(50, step=9, device="cpu", rank=rank, world_size=20) for rank in range(20)]
    )
    assert drawn.dtype == torch.int64
    assert drawn.sort().values.tolist() == list(range(1000)), "1000 strata of a 1000 steps"


def test_flow_is_a_straight_line_from_sample_to_noise() -> None:
    objective = FlowMatching()
    clean, noise = torch.randn(2, 5, 4, 3, 3)
    time = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    noised = objective.noise(clean, time, noise=noise)
    assert torch.equal(noised.noisy[0], clean[0])
    assert torch.equal(noised.noisy[-1], noise[-1])
    torch.testing.assert_close(noised.noisy, clean + time.view(-1, 1, 1, 1) * noised.target)
    torch.testing.assert_close(objective.clean_estimate(noised.target, noised), clean, atol=1e-6, rtol=0)


def test_flow_times_follow_the_distribution() -> None:
    def times(**options: Any) -> Tensor:
        return FlowMatching(**options).sample_time(20_000, step=0, device="cpu")

    uniform, normal = times(distribution="uniform"), times()
    assert uniform.mean() == pytest.approx(0.5, abs=1e-3)
    assert uniform.std() == pytest.approx(1 / 12**0.5, abs=1e-3)
    assert torch.logit(normal).mean() == pytest.approx(0.0, abs=1e-2)
    assert torch.logit(normal).std() == pytest.approx(1.0, abs=1e-2)
    assert times(shift=3.0).median() == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize("options", [{"distribution": "cosine"}, {"std": 0.0}, {"shift": -1.0}])
def test_bad_flows(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"use one of|must be positive"):
        FlowMatching(**options)


@pytest.mark.parametrize(
    "kind", [DDIMScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler, DPMSolverMultistepScheduler]
)
def test_noise_is_not_predicted_where_the_schedule_ends_in_it(kind: type) -> None:
    """Some schedulers keep a trace of the sample, 2^-24, for their sigmas; it was taken for signal."""
    scheduler = kind(rescale_betas_zero_snr=True, prediction_type="epsilon")
    with pytest.raises(ValueError, match="zero terminal SNR"):
        DiffusionObjective(scheduler)
    DiffusionObjective(kind(prediction_type="epsilon"))


def test_the_step_that_sampling_begins_with_has_a_weight() -> None:
    scheduler = DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="sample")
    with pytest.raises(ValueError, match="min_snr_gamma gives the last step no weight"):
        DiffusionObjective(scheduler, min_snr_gamma=5.0)
    DiffusionObjective(scheduler)
