"""Long clips in parts: overlapping windows blended at each denoising step, or clips chained in time."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from portraitgen.diffusion.frame_conditions import FrameCondition, add_frames, take_frames

Blend = Literal["mean", "triangular"]


def context_windows(
    num_frames: int,
    size: int,
    overlap: int,
    *,
    stride: int = 1,
    closed_loop: bool = False,
    step: int = 0,
) -> list[list[int]]:
    """Overlapping windows of `size` frame numbers that together hold every frame of a clip.

    A clip of at most `size` frames is one window. Otherwise neighbours share `overlap` frames or more, and
    all windows are of one size.

    Args:
        stride: how many dilations to add to the plain windows: every 2nd frame, every 4th, … up to
            2^(stride − 1), as far as the clip is long enough for them.
        closed_loop: windows run over the end of the clip into its first frames, as in AniPortrait, for motion
            that repeats. Otherwise the last one is moved back to end with the clip.
        step: of the denoising; moves the windows, so that seams fall elsewhere at each. 0 does not.

    Raises:
        ValueError: no frames, or `size`, `overlap` or `stride` out of range.
    """
    if num_frames < 1 or size < 1 or stride < 1 or step < 0:
        raise ValueError(
            f"windows need num_frames, size and stride of 1 or more and a step of 0 or more, "
            f"not {num_frames}, {size}, {stride} and {step}"
        )
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must be in [0, size), not {overlap} for windows of {size} frames")
    if num_frames <= size:
        return [list(range(num_frames))]
    levels = min(stride, math.ceil(math.log2(num_frames / size)) + 1)
    starts = _closed_starts if closed_loop else _open_starts
    return [
        [(start + offset) % num_frames for offset in range(0, size * dilation, dilation)]
        for dilation in (2**level for level in range(levels))
        for start in starts(num_frames, size, size * dilation - overlap, dilation, radical_inverse(step))
    ]


def _closed_starts(num_frames: int, size: int, hop: int, dilation: int, phase: float) -> Iterator[int]:
    turn = round(num_frames * phase)
    yield from range(turn + int(dilation * phase), turn + num_frames, hop)


def _open_starts(num_frames: int, size: int, hop: int, dilation: int, phase: float) -> Iterator[int]:
    last = num_frames - 1 - (size - 1) * dilation
    if last < 0:
        return
    first = int(hop * phase)
    if min(first, last) > 0:
        yield 0
    yield from range(min(first, last), last, hop)
    yield last


def radical_inverse(index: int) -> float:
    """Van der Corput sequence in base 2: 0, 1/2, 1/4, 3/4, 1/8, … fills [0, 1) evenly, however long it is."""
    bits = f"{index:b}"
    return int(bits[::-1], 2) / 2 ** len(bits)


def blend_weights(windows: Sequence[Sequence[int]], num_frames: int, *, blend: Blend = "mean") -> Tensor:
    """Weight of each frame in each window, float32 `[windows, size]`; sums to 1 for every frame of the clip.

    Args:
        windows: of one size.
        blend: `mean` weighs all windows of a frame alike, `triangular` by the distance to the window's ends,
            so that predictions change gradually from one window to the next.

    Raises:
        ValueError: unknown blend, windows of different sizes, or a frame in no window or beyond the clip.
    """
    if blend not in get_args(Blend):
        raise ValueError(f"blend is {blend!r}: use one of {', '.join(get_args(Blend))}")
    size = len(windows[0])
    if any(len(window) != size for window in windows):
        raise ValueError("windows of different sizes cannot be blended: use context_windows")
    if {frame for window in windows for frame in window} != {*range(num_frames)}:
        raise ValueError(f"the windows do not hold exactly the {num_frames} frames of the clip")
    frames = torch.tensor(windows)
    position = torch.arange(size)
    ramp = torch.minimum(position + 1, size - position) if blend == "triangular" else torch.ones(size)
    weights = ramp.to(torch.float32).expand(len(windows), size)
    total = torch.zeros(num_frames).index_add_(0, frames.flatten(), weights.flatten())
    return weights / total[frames]


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """What the rows of a batch of windows are: all samples at the first window, then all at the second, …

    Attributes:
        windows: frame numbers, all windows of one size.
        num_samples: B, so that there are N = windows · B rows.
    """

    windows: Sequence[Sequence[int]]
    num_samples: int

    def of_samples(self, condition: Tensor) -> Tensor:
        """`[B, …]` (a reference, an embedding) → `[N, …]`; a view for one sample or one window."""
        return condition.expand(len(self.windows), *condition.shape).flatten(0, 1)

    def of_frames(self, condition: FrameCondition) -> Tensor:
        """`[B, T, …]` (poses, audio features) → `[N, size, …]`; a view for one window of a tensor."""
        parts = [take_frames(condition, window) for window in self.windows]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def windowed(
    predict: Callable[[Tensor, Tensor, WindowBatch], Tensor],
    windows: Sequence[Sequence[int]],
    *,
    blend: Blend = "mean",
    batch_size: int = 1,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Turns a network for short clips into a `predict(noisy, time)` for long ones.

    Args:
        predict: `(noisy [N, size, …], time [N], WindowBatch) → [N, size, …]` with N = samples · windows in
            the batch. Takes the conditions of its rows by `WindowBatch.of_samples` and `of_frames`.
        windows: of one size, holding every frame: see `context_windows`.
        blend: see `blend_weights`. Frames are blended by a weighted mean whatever the guidance.
        batch_size: windows predicted at once.

    Returns:
        `(noisy [B, T, …], time [B]) → [B, T, …]`.

    Raises:
        ValueError: as `blend_weights`; `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"the batch of windows must hold at least 1, not {batch_size}")
    num_frames = 1 + max(frame for window in windows for frame in window)
    weights = blend_weights(windows, num_frames, blend=blend)

    @functools.cache
    def weights_on(device: torch.device) -> Tensor:
        """The weights, copied to a device once and not at every step."""
        return weights.to(device)

    def predict_clip(noisy: Tensor, time: Tensor) -> Tensor:
        if noisy.shape[1] != num_frames:
            raise ValueError(f"the windows are for {num_frames} frames, the clip has {noisy.shape[1]}")
        num_samples = len(noisy)
        weight_of = weights_on(noisy.device).view(*weights.shape, *[1] * (noisy.ndim - 2))
        blended = torch.zeros_like(noisy)
        for first in range(0, len(windows), batch_size):
            batch = WindowBatch(windows[first : first + batch_size], num_samples)
            predicted = predict(batch.of_frames(noisy), batch.of_samples(time), batch).to(blended)
            # One window after the other: the sum has one order, whatever the batch.
            for index, rows in enumerate(predicted.split(num_samples), start=first):
                add_frames(blended, windows[index], rows * weight_of[index])
        return blended

    return predict_clip


@dataclass(frozen=True, slots=True)
class ChainedClip:
    """One clip of a chain: the frames to generate now and the earlier ones it continues, oldest first."""

    frames: range
    motion: range


def chained_clips(num_frames: int, clip: int, motion: int) -> list[ChainedClip]:
    """Clips of `clip` frames one after the other, each seeing up to `motion` frames before it (Loopy).

    The first clip sees none; the last is shorter where `clip` does not divide `num_frames`.

    Raises:
        ValueError: no frames, `clip` below 1 or `motion` below 0.
    """
    if num_frames < 1 or clip < 1 or motion < 0:
        raise ValueError(
            f"a chain needs num_frames and clip of 1 or more and motion of 0 or more, "
            f"not {num_frames}, {clip} and {motion}"
        )
    return [
        ChainedClip(range(start, min(start + clip, num_frames)), range(max(0, start - motion), start))
        for start in range(0, num_frames, clip)
    ]
