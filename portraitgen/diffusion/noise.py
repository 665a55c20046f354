"""Gaussian noise that depends on its generator alone, not on the device or the batch around a sample."""

from collections.abc import Sequence

import torch
from torch import Tensor

Generators = torch.Generator | list[torch.Generator]


def seeded_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator a sample: a seed then means the same picture on every machine and in every batch."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw_noise(
    shape: Sequence[int],
    *,
    device: torch.device | str,
    generator: Generators | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise of `shape` (batch first) on `device`.

    It is drawn where the generator lives and then moved; a list of generators gives each sample its own.
    Without a generator the global one of `device` is used.

    Raises:
        ValueError: the list does not hold one generator for each sample.
    """
    if generator is None:
        return torch.randn(*shape, device=device, dtype=dtype)
    if isinstance(generator, torch.Generator):
        return torch.randn(*shape, generator=generator, device=generator.device, dtype=dtype).to(device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}: give one for each sample")
    samples = [torch.randn(*shape[1:], generator=one, device=one.device, dtype=dtype) for one in generator]
    return torch.stack(samples).to(device)
