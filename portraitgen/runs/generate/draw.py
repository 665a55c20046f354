"""Draw what a request asks for, chunk by chunk, and beside it what the system shows of the request."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from portraitgen.diffusion.frame_conditions import FramesOnDemand
from portraitgen.diffusion.noise import seeded_generators
from portraitgen.media.interpolation import Between, fill_between
from portraitgen.training.generator import Generator
from portraitgen.training.learner import Batch
from portraitgen.training.request import Request
from portraitgen.training.step_seed import stream_seed

CHUNK_FRAMES = 8
"""Frames that are written at once."""


def draw_frames(
    system: Generator,
    request: Request,
    positions: Sequence[int],
    between: Between | None,
    *,
    seed: int,
    on_step: Callable[[int, int], None],
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Generated frames [n, 3, H, W] and what the system shows beside them, chunk by chunk, in [-1, 1].

    The noise is that of (seed, key of the request).

    Args:
        positions: frames that the system draws, the first and the last among them.
        between: makes the others; None: there are no others.
    """
    batch = {name: _to_device(value, system.device) for name, value in request.batch.items()}
    if len(positions) < request.count:
        batch = _narrowed(batch, positions, key=request.key)
    noise = seeded_generators([stream_seed(seed, request.key)])
    chunks = system.stream(batch, generator=noise, on_step=on_step)
    frames = (frame for chunk in chunks for frame in _as_clip(chunk[0]).float())
    filled = frames if between is None else fill_between(frames, positions, between)
    done = 0
    while group := list(islice(filled, CHUNK_FRAMES)):
        shown = system.shown(_made(request.batch, range(done, done + len(group))))
        yield torch.stack(group).cpu(), {label: pictures[0].cpu() for label, pictures in shown.items()}
        done += len(group)
    if done != request.count:
        raise RuntimeError(f"{request.key}: the system drew {done} frames of {request.count}")


def _to_device(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _as_clip(pictures: Tensor) -> Tensor:
    """[T, 3, H, W] of a clip, or of one picture [3, H, W]."""
    return pictures if pictures.ndim == 4 else pictures[None]


def _narrowed(batch: Batch, positions: Sequence[int], *, key: str) -> Batch:
    """The batch for some of its frames only.

    Raises:
        ValueError: nothing in it goes by frame, so that the system cannot be asked for some of them.
    """
    if not any(isinstance(value, FramesOnDemand) for value in batch.values()):
        raise ValueError(
            f"{key}: interpolation.every is above 1, but this system cannot draw single frames of a clip; "
            "leave interpolation out"
        )

    def chosen(condition: FramesOnDemand) -> FramesOnDemand:
        return FramesOnDemand(
            len(positions), lambda frames: condition.make([positions[frame] for frame in frames])
        )

    return {
        name: chosen(value) if isinstance(value, FramesOnDemand) else value for name, value in batch.items()
    }


def _made(batch: Batch, frames: Sequence[int]) -> Batch:
    """The batch with what goes by frame made for these frames."""
    return {
        name: value.make(frames) if isinstance(value, FramesOnDemand) else value
        for name, value in batch.items()
    }
