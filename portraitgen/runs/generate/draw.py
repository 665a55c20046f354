"""Draw the frames of a clip: from its landmarks to pictures, a few at a time."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from portraitgen.diffusion.frames import FramesOnDemand
from portraitgen.diffusion.noise import seeded_generators
from portraitgen.faces.drawing import draw_landmarks
from portraitgen.media.interpolation import Between, fill_between
from portraitgen.nn.pose_guider import DRAWING_FACTOR
from portraitgen.runs.generate.driving.clip import DrivenClip
from portraitgen.training.generator import Generator
from portraitgen.training.step_seed import stream_seed

CHUNK_FRAMES = 8
"""Frames that are written at once."""


def draw_frames(
    system: Generator,
    clip: DrivenClip,
    positions: Sequence[int],
    between: Between | None,
    *,
    seed: int,
    on_step: Callable[[int, int], None],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Generated frames [n, 3, H, W] and landmark drawings [n, 3, Hp, Wp], chunk by chunk, in [-1, 1].

    Args:
        positions: frames that the system draws, the first and the last among them.
        between: makes the others; None: there are no others.
    """
    height, width = clip.reference.shape[-2:]
    canvas = (DRAWING_FACTOR * height // system.codec.factor, DRAWING_FACTOR * width // system.codec.factor)

    def drawings(frames: Sequence[int]) -> Tensor:
        drawn = draw_landmarks(
            clip.landmarks[list(frames)], image_size=(height, width), canvas_size=canvas, scheme=clip.scheme
        )
        return torch.from_numpy(drawn) / 127.5 - 1

    batch = {
        "key": [clip.key],
        "reference": clip.reference[None].to(system.device),
        "pose": FramesOnDemand(len(positions), lambda keys: drawings([positions[key] for key in keys])[None]),
    }
    noise = seeded_generators([stream_seed(seed, clip.key)])
    chunks = system.stream(batch, generator=noise, on_step=on_step)
    frames = (frame for chunk in chunks for frame in chunk[0].float())
    filled = frames if between is None else fill_between(frames, positions, between)
    done = 0
    while group := list(islice(filled, CHUNK_FRAMES)):
        yield torch.stack(group).cpu(), drawings(range(done, done + len(group)))
        done += len(group)
