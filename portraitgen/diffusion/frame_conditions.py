"""Conditions that go by frame: tensors, or made for the frames that are asked for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class FramesOnDemand:
    """A condition `[B, T, …]` of long clips that never exists as a whole.

    Attributes:
        num_frames: T.
        make: frame numbers → `[B, n, …]`, the same for the same frames every time; asked for a window at a
            time, some frames more than once.
    """

    num_frames: int
    make: Callable[[Sequence[int]], Tensor]


FrameCondition = Tensor | FramesOnDemand


def count_frames(condition: FrameCondition) -> int:
    """T of a condition `[B, T, …]`."""
    return condition.num_frames if isinstance(condition, FramesOnDemand) else condition.shape[1]


def take_frames(condition: FrameCondition, frames: Sequence[int]) -> Tensor:
    """`[B, n, …]`: these frames of a condition; of a tensor a view where they are evenly spaced."""
    if isinstance(condition, FramesOnDemand):
        return condition.make(frames)
    parts = [condition[:, run] for run in _runs(frames)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def add_frames(total: Tensor, frames: Sequence[int], values: Tensor) -> None:
    """Adds `values` `[B, n, …]` to these frames of `total` `[B, T, …]`, in place."""
    start = 0
    for run in _runs(frames):
        part = total[:, run]
        part += values[:, start : start + part.shape[1]]
        start += part.shape[1]


def _runs(frames: Sequence[int]) -> Iterator[slice]:
    """Slices that are `frames` one after the other: slicing needs no table of indices on the device."""
    start = 0
    while start < len(frames):
        step = max(1, frames[start + 1] - frames[start]) if start + 1 < len(frames) else 1
        stop = start + 1
        while stop < len(frames) and frames[stop] - frames[stop - 1] == step:
            stop += 1
        yield slice(frames[start], frames[stop - 1] + 1, step)
        start = stop
