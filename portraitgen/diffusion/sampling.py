"""The one denoising loop, for every network and every diffusers scheduler, images and clips alike."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from portraitgen.diffusion.noise import Generators


class Scheduler(Protocol):
    """The part of a diffusers scheduler (DDIM, UniPC, FlowMatchEuler, …) that sampling uses."""

    timesteps: Tensor

    @property
    def config(self) -> Any: ...

    @property
    def set_timesteps(self) -> Callable[..., None]: ...

    @property
    def step(self) -> Callable[..., Any]: ...


def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler: Scheduler,
    latents: Tensor,
    *,
    num_steps: int | None = None,
    set_timesteps: Mapping[str, Any] | None = None,
    step: Mapping[str, Any] | None = None,
    gradients: int = 0,
    generator: Generators | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Denoises standard normal `latents` (batch first; see `noise.draw_noise`) into clean ones.

    Args:
        predict: `(noisy, time [B]) → prediction` of noisy's shape, windows and guidance included. Time is as
            in training: the scheduler's steps, or t in [0, 1] where the schedule is a flow.
        scheduler: its settings stay, its loop state is started anew.
        num_steps: passed to the scheduler; some need more predictions than that (Heun two for each step).
            Not needed where `sigmas` or `timesteps` are given.
        set_timesteps: other arguments of the scheduler's `set_timesteps`, such as `mu` (see
            `timesteps.FlowShift`), `sigmas` or `timesteps`.
        step: other arguments of the scheduler's `step`, such as `eta`.
        gradients: gradients flow through this many of the last predictions; the ones before are made without,
            which costs no memory. For losses that look at what a few steps draw.
        generator: source of the noise of stochastic schedulers; one, or one a sample.
        on_step: called after each prediction with how many are done and how many there will be.

    Returns:
        Latents of the same shape and dtype. Use float32: the loop adds many small steps.

    Raises:
        ValueError: the scheduler takes no such argument, or the number of steps is missing or contradicted.
    """
    _set_timesteps(scheduler, num_steps, set_timesteps or {})
    # The timesteps stay on the CPU, where the schedulers keep their tables: no step waits for the GPU.
    timesteps, time_scale = scheduler.timesteps, _time_scale(scheduler)
    options = {**(step or {}), "return_dict": False}
    _require_arguments(scheduler, "step", options)
    taken = inspect.signature(scheduler.step).parameters
    if "generator" in taken:
        options["generator"] = generator
    # CogVideoXDPMScheduler is given what other multistep schedulers remember by themselves.
    recalls, recalled = "old_pred_original_sample" in taken, None
    scale_input = getattr(scheduler, "scale_model_input", None)
    wanted, total = torch.is_grad_enabled(), len(timesteps)
    with torch.set_grad_enabled(wanted and gradients >= total):
        latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    for index, timestep in enumerate(timesteps):
        with torch.set_grad_enabled(wanted and index >= total - gradients):
            noisy = latents if scale_input is None else scale_input(latents, timestep)
            time = torch.full((len(latents),), timestep.item() * time_scale, device=latents.device)
            prediction = predict(noisy, time).to(latents.dtype)
            if recalls:
                before = timesteps[index - 1] if index else None
                latents, recalled = scheduler.step(
                    prediction, recalled, timestep, before, latents, **options
                )[:2]
            else:
                latents = scheduler.step(prediction, timestep, latents, **options)[0]
        if on_step is not None:
            on_step(index + 1, total)
    return latents


def times_of(scheduler: Scheduler) -> Tensor:
    """Times [N] of the predictions of the loop that is under way, as they are given to `predict`."""
    return scheduler.timesteps * _time_scale(scheduler)


def _time_scale(scheduler: Scheduler) -> float:
    flow = getattr(scheduler.config, "prediction_type", "flow_prediction") == "flow_prediction"
    return 1 / scheduler.config.num_train_timesteps if flow else 1


def _set_timesteps(scheduler: Scheduler, num_steps: int | None, arguments: Mapping[str, Any]) -> None:
    """Schedulers refuse a number of steps beside the steps themselves, so it is only compared with those."""
    _require_arguments(scheduler, "set_timesteps", arguments)
    listed = {name: arguments[name] for name in ("sigmas", "timesteps") if arguments.get(name) is not None}
    if not listed:
        if num_steps is None:
            raise ValueError("num_steps is missing: give the number of denoising steps")
        scheduler.set_timesteps(num_steps, **arguments)
        return
    for name, values in listed.items():
        if num_steps is not None and len(values) != num_steps:
            raise ValueError(f"num_steps is {num_steps}, but {len(values)} {name} are given: leave out one")
    # Some compute with the sigmas as they come, which lists cannot.
    arrays = {name: np.asarray(values) for name, values in listed.items() if name == "sigmas"}
    scheduler.set_timesteps(**{**arguments, **arrays})


def _require_arguments(scheduler: Scheduler, method: str, arguments: Mapping[str, Any]) -> None:
    taken = inspect.signature(getattr(scheduler, method)).parameters
    for name in arguments:
        if name not in taken:
            raise ValueError(
                f"{type(scheduler).__name__}.{method} takes no {name!r}: it takes {', '.join(taken)}"
            )
