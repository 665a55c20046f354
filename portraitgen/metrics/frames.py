"""Frames of a video as graders take them: a few at a time, from the first to the last, never all at once."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from portraitgen.metrics.rgb import Clip, as_uint8

CHUNK = 16
"""Frames that are in memory together: those of an FVD window, and a batch for the networks."""


class Frames(Protocol):
    """Frames of one video, uint8 RGB, that can be read as often as somebody asks."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, 3, H, W)."""
        ...

    def chunks(self) -> Iterator[Tensor]:
        """All frames in their order, uint8 [N, 3, H, W], N being `CHUNK` but for the last."""
        ...

    def at(self, places: np.ndarray) -> Tensor:
        """A few frames, uint8 [len(places), 3, H, W]; places int64 in 0..T-1, in any order."""
        ...


class HeldFrames:
    """Frames that are in memory anyway: of a batch, or a picture.

    Args:
        clip: [T, 3, H, W], or one picture [3, H, W].
        name: what they are, for the message of an error.

    Raises:
        ValueError: as `as_uint8`.
    """

    def __init__(self, clip: Clip, *, name: str) -> None:
        shown = as_uint8(clip, name=name)
        self.tensor: Tensor = shown if shown.ndim == 4 else shown[None]
        """uint8 [T, 3, H, W]."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """See `Frames.shape`."""
        count, channels, height, width = self.tensor.shape
        return count, channels, height, width

    def chunks(self) -> Iterator[Tensor]:
        """See `Frames.chunks`."""
        return iter(self.tensor.split(CHUNK))

    def at(self, places: np.ndarray) -> Tensor:
        """See `Frames.at`."""
        return self.tensor[torch.from_numpy(places).to(self.tensor.device)]


class ChosenFrames:
    """Frames that are fetched by their places, a chunk at a time.

    Args:
        shape: (T, 3, H, W).
        fetch: from places int64 [N] in 0..T-1 to frames uint8 [N, 3, H, W].
    """

    def __init__(self, shape: tuple[int, int, int, int], fetch: Callable[[np.ndarray], Tensor]) -> None:
        self.shape = shape
        self.at = fetch

    def chunks(self) -> Iterator[Tensor]:
        """See `Frames.chunks`."""
        for first in range(0, self.shape[0], CHUNK):
            yield self.at(np.arange(first, min(first + CHUNK, self.shape[0])))


def as_frames(footage: Clip | Frames, *, name: str) -> Frames:
    """Frames of either kind.

    Raises:
        ValueError: as `HeldFrames`.
    """
    return HeldFrames(footage, name=name) if isinstance(footage, Clip) else footage


def is_still(frames: Tensor) -> bool:
    """Whether these frames [N, ...] are all the same, as in a control that copies: networks look at one."""
    return len(frames) > 1 and bool((frames == frames[:1]).all())


def pick(frames: Frames, places: np.ndarray) -> Tensor:
    """`Frames.at` by reading from the first frame to the last of those wanted.

    Raises:
        ValueError: no places.
    """
    if not len(places):
        raise ValueError("no frames are asked for")
    wanted, inverse = np.unique(places, return_inverse=True)
    found, first = [], 0
    for chunk in frames.chunks():
        here = wanted[(wanted >= first) & (wanted < first + len(chunk))] - first
        found.append(chunk[torch.from_numpy(here)].clone())
        first += len(chunk)
        if first > wanted[-1]:
            break
    return torch.cat(found)[torch.from_numpy(inverse)]
