"""ConsisID's order of samples, to continue one of its runs; our own is data/order."""

import torch
from torch import Generator


def shuffled_epoch(length: int, generator: Generator, *, start: int = 0) -> list[int]:
    """The samples of one epoch in the order of ConsisID's sampler, from position `start` on.

    The generator is advanced by the draws that the sampler makes in an epoch, so that the next call gives the
    next epoch.
    """
    order: list[int] = torch.randperm(length, generator=generator).tolist()
    torch.randperm(length, generator=generator)
    return order[start if start < length else 0 :]
