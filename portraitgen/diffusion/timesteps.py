"""Which noise level each training sample gets, spread evenly over the batch of all ranks together."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


def stratified_uniform(
    batch_size: int,
    *,
    step: int,
    device: torch.device | str,
    rank: int = 0,
    world_size: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Uniform numbers in [0, 1), float32 `[batch_size]`, one in each of batch_size · world_size equal strata.

    Every rank owns other strata of the same step and the union over the ranks fills all of them, so that the
    mean loss of a step varies less than with independent draws. Which stratum a sample gets is a permutation
    known to all ranks from `step` alone: no communication, and over the steps each sample of each rank is
    uniform.

    Args:
        step: number of the batch, the same on all ranks. Must advance, or a rank keeps its strata.
        generator: source of the position inside a stratum; differs between ranks. Default: the global one.

    Raises:
        ValueError: `rank` is not in [0, world_size).
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not in [0, {world_size})")
    strata = batch_size * world_size
    shuffled = torch.randperm(strata, generator=torch.Generator().manual_seed(step))
    mine = shuffled[rank * batch_size : (rank + 1) * batch_size].to(device, torch.float32)
    source = device if generator is None else generator.device
    inside = torch.rand(batch_size, generator=generator, device=source).to(device)
    # float32 can round the last stratum up to 1.0.
    return ((mine + inside) / strata).clamp_(max=1 - 2**-24)


def integer_steps(uniform: Tensor, num_train_timesteps: int) -> Tensor:
    """Steps 0 … num_train_timesteps − 1 (int64), equally likely for uniform numbers in [0, 1)."""
    return (uniform * num_train_timesteps).long().clamp_(max=num_train_timesteps - 1)


def logit_normal(uniform: Tensor, *, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Times in [0, 1] whose logit is normal (Esser et al. 2024, section 3.1), from uniform numbers in [0, 1).

    It is the quantile function: being monotone, it keeps the strata of `stratified_uniform`.
    """
    return torch.sigmoid(mean + std * math.sqrt(2) * torch.erfinv(2 * uniform - 1))


def shift_time(time: Tensor, shift: float) -> Tensor:
    """Moves flow times in [0, 1] towards noise for `shift` > 1 (Esser et al. 2024); 1 leaves them."""
    return shift * time / (1 + (shift - 1) * time)


class Shift(Protocol):
    """How far sampling of a flow is moved towards noise."""

    def schedule(self, num_steps: int, num_tokens: int) -> dict[str, Any]:
        """Arguments `sigmas` and `mu` of a scheduler's `set_timesteps`."""
        ...


@dataclass(frozen=True)
class FlowShift:
    """How far sampling of a flow is moved towards noise, by the number of tokens that the network sees.

    More tokens show the same picture through more noise. FLUX.1's rule (its reference code, `get_schedule`):
    μ is linear in the number of tokens, 0.5 at 256 (a picture of 256x256) and 1.15 at 4096 (1024x1024), and
    beyond; times move as `shift_time` does with shift = exp(μ).

    Attributes:
        base_tokens, max_tokens: two lengths.
        base_shift, max_shift: μ at these.
    """

    base_tokens: int = 256
    max_tokens: int = 4096
    base_shift: float = 0.5
    max_shift: float = 1.15

    def __post_init__(self) -> None:
        if self.max_tokens <= self.base_tokens:
            raise ValueError(
                f"max_tokens ({self.max_tokens}) must be more than base_tokens ({self.base_tokens})"
            )

    def mu(self, num_tokens: int) -> float:
        """μ for samples of so many tokens."""
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return self.base_shift + slope * (num_tokens - self.base_tokens)

    def schedule(self, num_steps: int, num_tokens: int) -> dict[str, Any]:
        """Arguments `sigmas` and `mu` of a scheduler's `set_timesteps`: even times from 1 to 1/num_steps,
        which a scheduler with `use_dynamic_shifting` then moves.
        """
        return {"sigmas": _even_times(num_steps), "mu": self.mu(num_tokens)}


@dataclass(frozen=True)
class EmpiricalShift:
    """FLUX.2's rule, by the number of tokens and of steps (diffusers' `compute_empirical_mu`).

    μ is linear in the tokens, by one line for 200 steps and by another for 10, and in the steps between
    them; above 4300 tokens it is that of 200 steps. The numbers are theirs.
    """

    def mu(self, num_tokens: int, num_steps: int) -> float:
        """μ for samples of so many tokens in so many steps."""
        many = 0.00016927 * num_tokens + 0.45666666
        if num_tokens > 4300:
            return many
        few = 8.73809524e-05 * num_tokens + 1.89833333
        return many + (many - few) / 190 * (num_steps - 200)

    def schedule(self, num_steps: int, num_tokens: int) -> dict[str, Any]:
        """See `FlowShift.schedule`."""
        return {"sigmas": _even_times(num_steps), "mu": self.mu(num_tokens, num_steps)}


def _even_times(num_steps: int) -> list[float]:
    """From 1 to 1/num_steps."""
    return torch.linspace(1, 1 / num_steps, num_steps, dtype=torch.float64).tolist()
