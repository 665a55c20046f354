"""The denoising loop: a perfect predictor gives the clean sample on every scheduler; seeds are portable."""

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps
from safetensors.torch import load_file
from torch import Tensor

from portraitgen.diffusion.guidance import Guidance, guided
from portraitgen.diffusion.noise import draw_noise, seeded_generators
from portraitgen.diffusion.objective import DiffusionObjective, FlowMatching, Objective
from portraitgen.diffusion.sampling import sample
from portraitgen.diffusion.timesteps import FlowShift, shift_time
from portraitgen.diffusion.windows import WindowBatch, context_windows, windowed

SHAPE = (2, 3, 4, 5, 6)
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO_SNR = SCHEDULE | {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "clip_sample": False}


def perfect(objective: Objective, clean: Tensor) -> Any:
    """Knows the clean sample and predicts, from noisy input and time alone, what the objective asks for."""

    def predict(noisy: Tensor, time: Tensor) -> Tensor:
        assert time.shape == (len(clean),)
        one = torch.ones_like(clean)
        if isinstance(objective, FlowMatching):
            t = time.view(-1, 1, 1, 1, 1)
            return (noisy - (1 - t) * clean) / t - clean
        # x_t is linear in the noise: two noises give α and σ at this time, in training's own terms.
        steps = time.long()
        alpha = objective.noise(one, steps, noise=torch.zeros_like(one)).noisy
        sigma = objective.noise(torch.zeros_like(one), steps, noise=one).noisy
        return objective.noise(clean, steps, noise=(noisy - alpha * clean) / sigma).target

    return predict


SCHEDULERS = {
    "ddim-epsilon": lambda: DDIMScheduler(**SCHEDULE, prediction_type="epsilon", clip_sample=False),
    "ddim-v": lambda: DDIMScheduler(**ZERO_SNR, prediction_type="v_prediction"),
    "ddim-sample": lambda: DDIMScheduler(**ZERO_SNR, prediction_type="sample"),
    "ddpm": lambda: DDPMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False),
    "euler": lambda: EulerDiscreteScheduler(**SCHEDULE, prediction_type="v_prediction"),
    "unipc": lambda: UniPCMultistepScheduler(**SCHEDULE, prediction_type="v_prediction"),
    "dpm-solver": lambda: DPMSolverMultistepScheduler(**SCHEDULE, prediction_type="epsilon"),
    "flow": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
}


def objective_for(scheduler: Any) -> Objective:
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return FlowMatching()
    return DiffusionObjective(scheduler)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_perfect_predictor_gives_the_clean_sample(name: str) -> None:
    scheduler = SCHEDULERS[name]()
    clean = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    noise = draw_noise(SHAPE, device="cpu", generator=seeded_generators([0, 1]))
    out = sample(perfect(objective_for(scheduler), clean), scheduler, noise, num_steps=10)
    # Some schedules end at the least noise of training, not at none.
    torch.testing.assert_close(out, clean, atol=0.05, rtol=0)
    if name in {"ddim-v", "ddim-sample", "flow"}:
        torch.testing.assert_close(out, clean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["ddim-v", "flow", "unipc", "euler"])
def test_a_gaussian_is_sampled_with_its_own_spread(name: str) -> None:
    """The best predictor for samples of N(0, 0.5²) turns unit noise into such samples."""
    spread = 0.5
    scheduler = SCHEDULERS[name]()

    def predict(noisy: Tensor, time: Tensor) -> Tensor:
        if name == "flow":
            t = time.view(-1, 1)
            gain = (t - (1 - t) * spread**2) / ((1 - t) ** 2 * spread**2 + t**2)
        else:
            squared = scheduler.alphas_cumprod[time.long()].view(-1, 1)
            gain = (squared * (1 - squared)).sqrt() * (1 - spread**2) / (squared * spread**2 + 1 - squared)
        return gain * noisy

    noise = torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0))
    out = sample(predict, scheduler, noise, num_steps=250)
    assert out.std().item() == pytest.approx(spread, rel=0.03)
    assert torch.corrcoef(torch.cat([noise, out]))[0, 1] > 0.999, "the map is monotone"


@pytest.mark.parametrize("run", ["f20_s3_cfg", "f7_s2_nocfg"])
def test_aniportrait_pipeline_golden(shared: Path, run: str) -> None:
    """Fed with the official pipeline's predictions, the loop walks through its timesteps and latents."""
    golden = load_file(shared / "golden/aniportrait_tiny/pipeline.safetensors")
    predictions, latents = golden[f"{run}.noise_pred"], golden[f"{run}.latents"]
    scheduler = DDIMScheduler(
        **ZERO_SNR
        | {
            "beta_schedule": "linear",
            "prediction_type": "v_prediction",
            "steps_offset": 1,
            "clip_sample": False,
        }
    )
    times, inputs = [], []

    def predict(noisy: Tensor, time: Tensor) -> Tensor:
        times.append(time.item())
        inputs.append(noisy)
        return predictions[len(times) - 1].transpose(1, 2)

    start = golden[f"{run}.init"].transpose(1, 2)
    out = sample(predict, scheduler, start, num_steps=len(predictions))
    assert times == golden[f"{run}.timesteps"].tolist()
    for reached, expected in zip([*inputs[1:], out], latents, strict=True):
        torch.testing.assert_close(reached, expected.transpose(1, 2), atol=1e-5, rtol=0)


def test_timesteps_golden(shared: Path) -> None:
    golden = load_file(shared / "golden/aniportrait_scheduler_loss.safetensors")
    for num_steps in (1, 2, 3, 10, 20, 25, 50, 100):
        times: list[int] = []

        def predict(noisy: Tensor, time: Tensor, times: list[int] = times) -> Tensor:
            times.append(int(time))
            return noisy

        sample(predict, SCHEDULERS["ddim-v"](), torch.zeros(1, 1), num_steps=num_steps)
        assert times == golden[f"timesteps_{num_steps}"].tolist()


@pytest.mark.parametrize("scheduler", [DDPMScheduler, EulerAncestralDiscreteScheduler])
def test_stochastic_samples_depend_on_their_own_seed_alone(scheduler: Any) -> None:
    def run(seeds: list[int]) -> Tensor:
        noise = draw_noise((len(seeds), 4, 3, 3), device="cpu", generator=seeded_generators(seeds))
        steps = scheduler(**SCHEDULE)
        return sample(
            lambda noisy, time: 0.1 * noisy, steps, noise, num_steps=5, generator=seeded_generators(seeds)
        )

    together = run([5, 6])
    torch.manual_seed(99)
    assert torch.equal(together, run([5, 6]))
    torch.testing.assert_close(together[1:], run([6]))
    assert not torch.equal(together, run([5, 7]))


def test_multistep_scheduler_starts_anew_on_every_call() -> None:
    scheduler, noise = (
        SCHEDULERS["unipc"](),
        draw_noise(SHAPE, device="cpu", generator=seeded_generators([0, 1])),
    )
    first, again = (sample(lambda noisy, time: noisy.tanh(), scheduler, noise, num_steps=4) for _ in range(2))
    assert torch.equal(first, again)


def test_windows_and_guidance_compose_into_one_predictor() -> None:
    clean = torch.randn(2, 45, 3)
    pose = torch.randn(2, 45, 3)
    scheduler = SCHEDULERS["ddim-sample"]()

    def predict(conditions: str, noisy: Tensor, time: Tensor, batch: WindowBatch) -> Tensor:
        return batch.of_frames(clean) + (batch.of_frames(pose) if conditions == "all" else 0)

    predictor = windowed(
        guided(predict, Guidance([("none", 1), ("all", 3)])), context_windows(45, 16, 4), batch_size=3
    )
    out = sample(
        predictor,
        scheduler,
        draw_noise((2, 45, 3), device="cpu", generator=seeded_generators([0, 1])),
        num_steps=2,
    )
    torch.testing.assert_close(out, clean + 3 * pose, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["ddim-v", "flow"])
def test_progress_precision_and_gradient(name: str) -> None:
    seen: list[tuple[int, int]] = []
    weight = torch.nn.Parameter(torch.ones(()))
    noise = torch.randn(1, 4)
    out = sample(
        lambda noisy, time: (weight * noisy).bfloat16(),
        SCHEDULERS[name](),
        noise,
        num_steps=3,
        on_step=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert out.dtype == torch.float32, "a network in half precision does not lower that of the loop"
    assert not out.requires_grad


COGVIDEOX = SCHEDULE | {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 3.0,
    "timestep_spacing": "trailing",
}
FLUX = {"use_dynamic_shifting": True, "shift": 3.0}
WAN = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}
FLUX_STEPS = {"sigmas": np.linspace(1.0, 1 / 7, 7), "mu": calculate_shift(1024)}

STOCK: dict[str, tuple[Callable[[], Any], dict[str, Any], dict[str, Any]]] = {
    # name: (scheduler, arguments of set_timesteps, arguments of step), as pipelines of diffusers give them
    "ddim": (lambda: DDIMScheduler(**ZERO_SNR, prediction_type="v_prediction"), {}, {"eta": 0.0}),
    "ddim-eta": (lambda: DDIMScheduler(**SCHEDULE, clip_sample=False), {}, {"eta": 0.7}),
    "dpm++": (lambda: DPMSolverMultistepScheduler(**SCHEDULE), {}, {}),
    "dpm++-timesteps": (
        lambda: DPMSolverMultistepScheduler(**SCHEDULE),
        {"timesteps": [999, 700, 420, 200, 90, 20, 0]},
        {},
    ),
    "dpm++-sde": (lambda: DPMSolverMultistepScheduler(**SCHEDULE, algorithm_type="sde-dpmsolver++"), {}, {}),
    "unipc": (lambda: UniPCMultistepScheduler(**SCHEDULE), {}, {}),
    "unipc-wan": (lambda: UniPCMultistepScheduler(**WAN), {}, {}),
    "unipc-sigmas": (
        lambda: UniPCMultistepScheduler(**WAN | {"use_dynamic_shifting": True}),
        {"sigmas": np.linspace(0.99, 0.1, 7), "mu": 0.8},
        {},
    ),
    "euler": (lambda: EulerDiscreteScheduler(**SCHEDULE), {}, {}),
    "euler-ancestral": (lambda: EulerAncestralDiscreteScheduler(**SCHEDULE), {}, {}),
    "heun": (lambda: HeunDiscreteScheduler(**SCHEDULE), {}, {}),
    "flow": (lambda: FlowMatchEulerDiscreteScheduler(shift=3.0), {}, {}),
    "flow-mu": (lambda: FlowMatchEulerDiscreteScheduler(**FLUX), {"mu": 0.9}, {}),
    "flow-flux": (lambda: FlowMatchEulerDiscreteScheduler(**FLUX), FLUX_STEPS, {}),
    "flow-heun": (lambda: FlowMatchHeunDiscreteScheduler(shift=3.0), {}, {}),
    "cogvideox-ddim": (lambda: CogVideoXDDIMScheduler(**COGVIDEOX), {}, {"eta": 0.0}),
    "cogvideox-dpm": (lambda: CogVideoXDPMScheduler(**COGVIDEOX), {}, {"eta": 0.0}),
}


def toy_network(noisy: Tensor, time: Tensor) -> Tensor:
    """Depends on all it is given and is no perfect predictor, so that every step counts."""
    return torch.tanh(noisy.roll(1, -1) + 0.1) * (1 + time.view(-1, 1, 1, 1, 1) / 1000)


def stock_loop(scheduler: Any, latents: Tensor, arguments: dict[str, Any], extra: dict[str, Any]) -> Tensor:
    """The loop of a diffusers pipeline, as StableDiffusionPipeline, CogVideoXPipeline and FluxPipeline do."""
    listed = {"sigmas", "timesteps"} & {*arguments}
    timesteps, _ = retrieve_timesteps(scheduler, None if listed else 7, "cpu", **arguments)
    if "generator" in inspect.signature(scheduler.step).parameters:
        extra = extra | {"generator": torch.Generator().manual_seed(5)}
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    old_pred_original_sample = None
    for i, t in enumerate(timesteps):
        scale = getattr(scheduler, "scale_model_input", None)
        noisy = latents if scale is None else scale(latents, t)
        noise_pred = toy_network(noisy, t.expand(len(latents)))
        if isinstance(scheduler, CogVideoXDPMScheduler):
            latents, old_pred_original_sample = scheduler.step(
                noise_pred,
                old_pred_original_sample,
                t,
                timesteps[i - 1] if i > 0 else None,
                latents,
                **extra,
                return_dict=False,
            )
        else:
            latents = scheduler.step(noise_pred, t, latents, **extra, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("name", STOCK)
def test_the_loop_is_that_of_the_pipelines(name: str) -> None:
    make, arguments, extra = STOCK[name]
    noise = draw_noise(SHAPE, device="cpu", generator=seeded_generators([0, 1]))
    expected = stock_loop(make(), noise, arguments, extra)

    scheduler = make()
    flow = getattr(scheduler.config, "prediction_type", "flow_prediction") == "flow_prediction"
    found = sample(
        lambda noisy, time: toy_network(noisy, time * 1000 if flow else time),
        scheduler,
        noise,
        num_steps=7,
        # As a configuration has them: lists.
        set_timesteps={k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in arguments.items()},
        step=extra,
        generator=torch.Generator().manual_seed(5),
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert (found - noise).abs().max() > 0.1


@pytest.mark.parametrize("num_tokens", [64, 256, 1024, 4096, 9000])
def test_flow_shift_is_that_of_flux(num_tokens: int) -> None:
    settings = FlowShift().schedule(7, num_tokens)
    assert settings["mu"] == pytest.approx(calculate_shift(num_tokens), abs=1e-12)
    np.testing.assert_allclose(settings["sigmas"], np.linspace(1.0, 1 / 7, 7), atol=1e-15)


def test_flow_shift_moves_times_as_training_does() -> None:
    """exp(μ) is the shift of `FlowMatching`."""
    scheduler = FlowMatchEulerDiscreteScheduler(**FLUX)
    settings = FlowShift().schedule(5, 2000)
    scheduler.set_timesteps(**settings)
    expected = shift_time(torch.tensor(settings["sigmas"]), math.exp(settings["mu"]))
    torch.testing.assert_close(scheduler.sigmas[:-1], expected.float(), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"max_tokens \(256\) must be more"):
        FlowShift(max_tokens=256)


@pytest.mark.parametrize(("gradients", "expected"), [(0, 0), (1, 1), (2, 2), (9, 4)])
def test_gradients_flow_through_the_last_steps_only(gradients: int, expected: int) -> None:
    """Every prediction has a weight of its own: those of the last steps are reached, and no others."""
    weights = torch.ones(4, requires_grad=True)
    seen: list[bool] = []

    def predict(noisy: Tensor, time: Tensor) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return weights[len(seen) - 1] * noisy.tanh()

    scheduler, noise = SCHEDULERS["ddim-v"](), torch.randn(2, 3, requires_grad=True)
    out = sample(predict, scheduler, noise, num_steps=4, gradients=gradients)
    assert seen == [False] * (4 - expected) + [True] * expected
    assert out.requires_grad == (expected > 0)
    if expected:
        out.sum().backward()
        assert (weights.grad != 0).tolist() == seen
        assert (noise.grad is not None) == (gradients >= 4)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        seen.clear()
        assert not sample(predict, scheduler, noise, num_steps=4, gradients=gradients).requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 3, "step": {"etta": 0.0}}, "DDIMScheduler.step takes no 'etta': it takes .*eta"),
        ({"num_steps": 3, "set_timesteps": {"mu": 1.0}}, "DDIMScheduler.set_timesteps takes no 'mu'"),
        ({}, "num_steps is missing"),
    ],
)
def test_arguments_that_a_scheduler_does_not_take_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(lambda noisy, time: noisy, SCHEDULERS["ddim-v"](), torch.zeros(1, 2), **settings)


def test_steps_and_their_number_must_agree() -> None:
    with pytest.raises(ValueError, match="num_steps is 3, but 2 sigmas are given"):
        sample(
            lambda noisy, time: noisy,
            FlowMatchEulerDiscreteScheduler(),
            torch.zeros(1, 2),
            num_steps=3,
            set_timesteps={"sigmas": [1.0, 0.5]},
        )
