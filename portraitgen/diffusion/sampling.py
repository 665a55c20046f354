"""The one denoising loop, for every network and every diffusers scheduler, images and clips alike."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from portraitgen.diffusion.noise import Generators


class Scheduler(Protocol):
    """The part of a diffusers scheduler (DDIM, UniPC, FlowMatchEuler, …) that sampling uses."""

    timesteps: Tensor

    @property
    def config(self) -> Any: ...

    def set_timesteps(self, num_inference_steps: int) -> None: ...

    @property
    def step(self) -> Callable[..., Any]: ...


@torch.no_grad()
def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler: Scheduler,
    latents: Tensor,
    *,
    num_steps: int,
    generator: Generators | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Denoises standard normal `latents` (batch first; see `noise.draw_noise`) into clean ones.

    Args:
        predict: `(noisy, time [B]) → prediction` of noisy's shape, windows and guidance included. Time is as
            in training: the scheduler's steps, or t in [0, 1] where the schedule is a flow.
        scheduler: its settings stay, its loop state is started anew.
        num_steps: passed to the scheduler; some need more predictions than that (Heun two for each step).
        generator: source of the noise of stochastic schedulers; one, or one a sample.
        on_step: called after each prediction with how many are done and how many there will be.

    Returns:
        Latents of the same shape and dtype. Use float32: the loop adds many small steps.
    """
    # The timesteps stay on the CPU, where the schedulers keep their tables: no step waits for the GPU.
    scheduler.set_timesteps(num_steps)
    timesteps = scheduler.timesteps
    flow = getattr(scheduler.config, "prediction_type", "flow_prediction") == "flow_prediction"
    time_scale = 1 / scheduler.config.num_train_timesteps if flow else 1
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    noise_options = {"generator": generator} if takes_generator else {}
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    for done, timestep in enumerate(timesteps, start=1):
        scale_input = getattr(scheduler, "scale_model_input", None)
        noisy = latents if scale_input is None else scale_input(latents, timestep)
        time = torch.full((len(latents),), timestep.item() * time_scale, device=latents.device)
        prediction = predict(noisy, time)
        latents = scheduler.step(prediction.to(latents.dtype), timestep, latents, **noise_options).prev_sample
        if on_step is not None:
            on_step(done, len(timesteps))
    return latents
