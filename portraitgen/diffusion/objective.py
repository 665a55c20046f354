"""What a diffusion model learns: noised input, target and weight, and the way back to the clean sample."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from portraitgen.diffusion.noise import draw_noise
from portraitgen.diffusion.timesteps import integer_steps, logit_normal, shift_time, stratified_uniform

PredictionType = Literal["epsilon", "v_prediction", "sample"]
TimeDistribution = Literal["uniform", "logit_normal"]


class NoiseSchedule(Protocol):
    """The part of a diffusers scheduler (DDIM, DDPM, …) that training reads."""

    alphas_cumprod: Tensor

    @property
    def config(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Noised:
    """A batch of training examples: `noisy` goes into the model at `time`, `target` should come out.

    Tensors are float32 (float64 if the clean ones were) whatever the precision of the network, because in
    half precision target and clean estimate no longer agree; cast `noisy` where no autocast does. `weight` is
    `[B]` float; `time` is `[B]`, int64 steps of a noise schedule or float in [0, 1] for flow.
    """

    noisy: Tensor
    target: Tensor
    weight: Tensor
    noise: Tensor
    time: Tensor
    clean: Tensor


class Objective(ABC):
    """How samples are noised and what is learnt from them; tensors have the batch first, any axes behind.

    Args:
        noise_offset: standard deviation of a constant that is added to the noise of each sample and channel
            (axis −3) and shared by its pixels and frames, so that the model learns overall brightness.
        mask_probability: share of the samples whose loss is that inside their mask, where there are masks;
            the others' is that of all elements (ConsisID's dynamic mask loss: 0.5).

    Raises:
        ValueError: `mask_probability` is not in [0, 1].
    """

    def __init__(self, *, noise_offset: float = 0.0, mask_probability: float = 1.0) -> None:
        if not 0 <= mask_probability <= 1:
            raise ValueError(f"mask_probability is {mask_probability}: it must be in [0, 1]")
        self.noise_offset = noise_offset
        self.mask_probability = mask_probability

    def sample_time(
        self,
        batch_size: int,
        *,
        step: int,
        device: torch.device | str,
        rank: int = 0,
        world_size: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Noise levels `[batch_size]`, stratified over all ranks: see `timesteps.stratified_uniform`."""
        uniform = stratified_uniform(
            batch_size, step=step, device=device, rank=rank, world_size=world_size, generator=generator
        )
        return self._time_of(uniform)

    def noise(
        self,
        clean: Tensor,
        time: Tensor,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Noised:
        """Noises `clean` to the levels `time` `[B]`.

        Args:
            noise: used as it is. By default it is drawn, independent in every element but for the offset.
        """
        clean = clean.to(torch.promote_types(clean.dtype, torch.float32))
        if noise is None:
            noise = draw_noise(clean.shape, device=clean.device, generator=generator, dtype=clean.dtype)
            if self.noise_offset:
                shape = [1] * clean.ndim
                shape[0], shape[-3] = clean.shape[0], clean.shape[-3]
                offset = draw_noise(shape, device=clean.device, generator=generator, dtype=clean.dtype)
                noise = noise + self.noise_offset * offset
        return self._noised(clean, noise, time)

    @abstractmethod
    def clean_estimate(self, prediction: Tensor, noised: Noised) -> Tensor:
        """The clean sample that `prediction` implies: `noised.clean` where it is the true target."""

    @abstractmethod
    def noise_level(self, time: Tensor) -> Tensor:
        """How noisy samples at `time` `[B]` are: float32 `[B]`, 0 clean … 1 the noisiest."""

    def draw_masked(self, batch_size: int, *, device: torch.device | str) -> Tensor:
        """Which samples' loss is that inside their mask: 1 or 0 `[B]`, by `mask_probability`."""
        if self.mask_probability in (0, 1):  # nothing to draw
            return torch.full((batch_size,), float(self.mask_probability), device=device)
        return (torch.rand(batch_size, device=device) < self.mask_probability).float()

    def loss(
        self,
        prediction: Tensor,
        noised: Noised,
        mask: Tensor | None = None,
        *,
        masked: Tensor | float = 1.0,
    ) -> Tensor:
        """Weighted mean squared error of each sample, `[B]`.

        Args:
            mask: weights ≥ 0 of the elements, broadcastable to the target (e.g. `[B, T, 1, h, w]`). A sample
                whose mask is all zero has the loss of all its elements.
            masked: `[B]` or a number: how much of a sample's loss is that inside its mask; the rest is that
                of all its elements. See `draw_masked`; `mask_probability` itself gives the expected loss.

        Raises:
            ValueError: `prediction` has another shape than the target.
        """
        target = noised.target
        if prediction.shape != target.shape:
            raise ValueError(f"the prediction is {[*prediction.shape]} where the target is {[*target.shape]}")
        error = (prediction.to(target.dtype) - target).square()
        if mask is None:
            return noised.weight * error.flatten(1).mean(1)
        share = torch.where(is_empty(mask), 0.0, masked)
        mean = share * masked_mean(error, mask) + (1 - share) * error.flatten(1).mean(1)
        return noised.weight * mean

    @abstractmethod
    def _time_of(self, uniform: Tensor) -> Tensor:
        """Times distributed as this objective wants them, from uniform numbers in [0, 1); monotone."""

    @abstractmethod
    def _noised(self, clean: Tensor, noise: Tensor, time: Tensor) -> Noised: ...


_ZERO_TERMINAL = 2.0**-23
"""Euler, UniPC and DPM++ put 2^-24 in the place of a last ᾱ of 0, for the sigmas that they compute of it."""


class DiffusionObjective(Objective):
    """Denoising on the schedule of a diffusers scheduler: x_t = α_t·x + σ_t·ε with α_t² = alphas_cumprod[t].

    The scheduler's `prediction_type` sets the target: the noise ε, the velocity v = α_t·ε − σ_t·x (Salimans
    & Ho 2022) or the sample x. Zero terminal SNR (Lin et al. 2023) is its `rescale_betas_zero_snr`. Times are
    its integer steps, all equally likely.

    Args:
        scheduler: read once, never changed.
        min_snr_gamma: see `min_snr_weight`; None weighs all steps alike.
        noise_offset, mask_probability: see `Objective`.

    Raises:
        ValueError: unknown prediction type; on a schedule that ends in pure noise `epsilon`, which tells
            nothing about the sample there, or `sample` with min-SNR weights, which are 0 there.
    """

    def __init__(
        self,
        scheduler: NoiseSchedule,
        *,
        min_snr_gamma: float | None = None,
        noise_offset: float = 0.0,
        mask_probability: float = 1.0,
    ) -> None:
        super().__init__(noise_offset=noise_offset, mask_probability=mask_probability)
        known = get_args(PredictionType)
        prediction_type = scheduler.config.prediction_type
        if prediction_type not in known:
            raise ValueError(
                f"scheduler.prediction_type is {prediction_type!r}: use one of {', '.join(known)}"
            )
        alphas_cumprod = scheduler.alphas_cumprod.detach().cpu().double()
        ends_in_noise = bool(alphas_cumprod[-1] <= _ZERO_TERMINAL)
        if prediction_type == "epsilon" and ends_in_noise:
            raise ValueError(
                "scheduler.prediction_type 'epsilon' is undefined on a schedule with zero terminal SNR: "
                "use v_prediction or sample, or rescale_betas_zero_snr: false"
            )
        if prediction_type == "sample" and ends_in_noise and min_snr_gamma is not None:
            raise ValueError(
                "min_snr_gamma gives the last step no weight where a schedule with zero terminal SNR predicts"
                " the sample, and sampling begins with that step: use v_prediction, or leave it out"
            )
        self.prediction_type: PredictionType = prediction_type
        weight = torch.ones_like(alphas_cumprod)
        if min_snr_gamma is not None:
            snr = alphas_cumprod / (1 - alphas_cumprod)
            weight = min_snr_weight(snr, gamma=min_snr_gamma, prediction_type=prediction_type)
        # Rows α, σ and weight over the steps, rounded to float32 once and kept on each device that asked, so
        # that no step copies from the host.
        self._table = torch.stack([alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt(), weight]).float()
        self._table_on: dict[torch.device, Tensor] = {}

    def clean_estimate(self, prediction: Tensor, noised: Noised) -> Tensor:
        prediction = prediction.to(noised.noisy.dtype)
        if self.prediction_type == "sample":
            return prediction
        alpha, sigma, _ = self._levels(noised.time, noised.noisy)
        if self.prediction_type == "v_prediction":
            return alpha * noised.noisy - sigma * prediction
        return (noised.noisy - sigma * prediction) / alpha

    def noise_level(self, time: Tensor) -> Tensor:
        """The step's share of all steps."""
        return time.float() / self._table.shape[1]

    def _time_of(self, uniform: Tensor) -> Tensor:
        return integer_steps(uniform, self._table.shape[1])

    def _noised(self, clean: Tensor, noise: Tensor, time: Tensor) -> Noised:
        alpha, sigma, weight = self._levels(time, clean)
        if self.prediction_type == "epsilon":
            target = noise
        elif self.prediction_type == "v_prediction":
            target = alpha * noise - sigma * clean
        else:
            target = clean
        return Noised(alpha * clean + sigma * noise, target, weight.flatten(), noise, time, clean)

    def _levels(self, time: Tensor, like: Tensor) -> Tensor:
        """α, σ and weight of each sample, `[3, B, 1, …]`, to be broadcast over `like`."""
        if like.device not in self._table_on:
            self._table_on[like.device] = self._table.to(like.device)
        return self._table_on[like.device][:, time].view(3, -1, *[1] * (like.ndim - 1))


class FlowMatching(Objective):
    """Rectified flow (Liu et al. 2023): x_t = (1 − t)·x + t·ε, target ε − x, so that t = 1 is pure noise.

    Args:
        distribution: of the time: `logit_normal` (Esser et al. 2024) or `uniform`.
        mean, std: of the time's logit, for `logit_normal`.
        shift: moves times towards noise, for large latents; 1 leaves them.
        noise_offset, mask_probability: see `Objective`.

    Raises:
        ValueError: unknown distribution, or `std` or `shift` not positive.
    """

    def __init__(
        self,
        *,
        distribution: TimeDistribution = "logit_normal",
        mean: float = 0.0,
        std: float = 1.0,
        shift: float = 1.0,
        noise_offset: float = 0.0,
        mask_probability: float = 1.0,
    ) -> None:
        super().__init__(noise_offset=noise_offset, mask_probability=mask_probability)
        known = get_args(TimeDistribution)
        if distribution not in known:
            raise ValueError(f"distribution is {distribution!r}: use one of {', '.join(known)}")
        if std <= 0 or shift <= 0:
            raise ValueError(f"std ({std}) and shift ({shift}) must be positive")
        self.distribution = distribution
        self.mean = mean
        self.std = std
        self.shift = shift

    def clean_estimate(self, prediction: Tensor, noised: Noised) -> Tensor:
        return noised.noisy - _as_column(noised.time, prediction) * prediction.to(noised.noisy.dtype)

    def noise_level(self, time: Tensor) -> Tensor:
        """The time itself."""
        return time.float()

    def _time_of(self, uniform: Tensor) -> Tensor:
        if self.distribution == "logit_normal":
            uniform = logit_normal(uniform, mean=self.mean, std=self.std)
        return shift_time(uniform, self.shift)

    def _noised(self, clean: Tensor, noise: Tensor, time: Tensor) -> Noised:
        t = _as_column(time, clean)
        return Noised((1 - t) * clean + t * noise, noise - clean, torch.ones_like(time), noise, time, clean)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each sample's `values` `[B, …]` weighted by `mask`, `[B]`: finite, and on the graph, always.

    Args:
        mask: weights ≥ 0, broadcastable to `values`. Where all of a sample's are zero its mean is 0.
    """
    mask = mask.to(values.dtype).expand_as(values)
    total = mask.flatten(1).sum(1).clamp(min=torch.finfo(values.dtype).tiny)
    return (values * mask).flatten(1).sum(1) / total


def is_empty(mask: Tensor) -> Tensor:
    """Samples of a mask `[B, …]` that are all zero: bool `[B]`."""
    return ~mask.flatten(1).any(1)


def min_snr_weight(snr: Tensor, *, gamma: float, prediction_type: PredictionType) -> Tensor:
    """Loss weights that bound each step's weight on the clean sample by γ (min-SNR-γ, Hang et al. 2023).

    A plain loss on ε, v or x weighs the error of the clean sample by SNR, SNR + 1 or 1, so the weights are
    min(SNR, γ)/SNR, min(SNR + 1, γ)/(SNR + 1) and min(SNR, γ). For v the paper has min(SNR, γ)/(SNR + 1); the
    form here, which AniPortrait trains with, keeps weight 1 instead of 0 at zero SNR. Finite for SNR 0 … ∞.
    """
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1)
    if prediction_type == "v_prediction":
        return (gamma / (snr + 1)).clamp(max=1)
    return snr.clamp(max=gamma)


def _as_column(time: Tensor, like: Tensor) -> Tensor:
    return time.view(-1, *[1] * (like.ndim - 1))
