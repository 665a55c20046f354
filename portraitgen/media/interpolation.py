"""Frames between frames: a clip of which only every n-th frame was drawn, filled up to its full rate.

Pictures are float [3, H, W] in [-1, 1]. Frames come and go one by one: only two of those given are held.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from portraitgen.media.yuv import rgb_to_uint8


class Between(Protocol):
    """A way to make frames between two others."""

    def __call__(self, first: Tensor, second: Tensor, count: int) -> list[Tensor]:
        """`count` frames, evenly spread in time between `first` and `second`, in order."""
        ...


def key_positions(num_frames: int, every: int, *, with_last: bool = True) -> list[int]:
    """Which of `num_frames` frames are drawn: every n-th, and the last one.

    Args:
        with_last: False as upstream: up to `every` - 1 frames at the end are lost.

    Raises:
        ValueError: `every` is below 1.
    """
    if every < 1:
        raise ValueError(f"interpolation.every={every} must be 1 or more: 1 draws all frames")
    positions = list(range(0, num_frames, every))
    if with_last and positions and positions[-1] != num_frames - 1:
        positions.append(num_frames - 1)
    return positions


def fill_between(frames: Iterable[Tensor], positions: Sequence[int], between: Between) -> Iterator[Tensor]:
    """All frames from the first position to the last.

    Args:
        frames: as many as `positions`, on any device; they are passed on as they are.
        positions: where they stand, increasing.
        between: makes those that are missing.
    """
    before: tuple[int, Tensor] | None = None
    for position, frame in zip(positions, frames, strict=True):
        if before is not None and position > before[0] + 1:
            yield from between(before[1], frame, position - before[0] - 1)
        yield frame
        before = position, frame


class BlendBetween:
    """Fades from one frame to the next: what moves is seen twice. The least that can be done."""

    def __call__(self, first: Tensor, second: Tensor, count: int) -> list[Tensor]:
        return [torch.lerp(first, second, (index + 1) / (count + 1)) for index in range(count)]


class FlowBetween:
    """Moves both frames along their optical flow (OpenCV's DIS, Kroeger et al., ECCV 2016) and fades.

    The flow from the time between to both frames is put together of the two between them, as in Super SloMo
    (Jiang et al., CVPR 2018, equation 4). On the CPU; needs no weights.
    """

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def __call__(self, first: Tensor, second: Tensor, count: int) -> list[Tensor]:
        ends = [frame.movedim(0, -1).float().cpu().numpy() for frame in (first, second)]
        grey = [
            cv2.cvtColor(rgb_to_uint8(frame[None])[0].movedim(0, -1).cpu().numpy(), cv2.COLOR_RGB2GRAY)
            for frame in (first, second)
        ]
        there = np.asarray(self._flow.calc(grey[0], grey[1], None))  # type: ignore[call-overload]
        back = np.asarray(self._flow.calc(grey[1], grey[0], None))  # type: ignore[call-overload]
        made = []
        for index in range(count):
            time = (index + 1) / (count + 1)
            to_first = -(1 - time) * time * there + time**2 * back
            to_second = (1 - time) ** 2 * there - time * (1 - time) * back
            frame = (1 - time) * _moved(ends[0], to_first) + time * _moved(ends[1], to_second)
            made.append(torch.from_numpy(frame).movedim(-1, 0).to(first))
        return made


class FilmBetween:
    """Google's FILM (Reda et al., ECCV 2022) as the TorchScript file that upstream uses (film_net_fp16.pt).

    A TorchScript file is a program: it runs what is written in it. Give only a file that you trust.

    Args:
        file: the TorchScript file. It runs where the frames are: in half precision on a GPU.

    Raises:
        ValueError: no such file, or no TorchScript in it.
    """

    def __init__(self, file: str | Path) -> None:
        if not Path(file).is_file():
            raise ValueError(
                f"interpolation.between.file={file}: no such file; FILM as TorchScript is film_net_fp16.pt "
                "of ZJYang/AniPortrait on the hub, or take interpolation=flow, which needs no weights"
            )
        try:
            self._model = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"interpolation.between.file={file} is no TorchScript ({reason})") from error
        self._model.eval()

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor, count: int) -> list[Tensor]:
        device, dtype = first.device, torch.float16 if first.is_cuda else torch.float32
        self._model.to(device=device, dtype=dtype)
        frames = {
            end: frame.to(device, dtype)[None] / 2 + 0.5 for end, frame in ((0, first), (count + 1, second))
        }
        for place, before, after, time in film_order(count):
            moment = torch.full((1, 1), time, device=device, dtype=dtype)
            frames[place] = self._model(frames[before], frames[after], moment).clamp(0, 1)
        return [(2 * frames[place][0] - 1).to(first) for place in range(1, count + 1)]


def film_order(count: int) -> list[tuple[int, int, int, float]]:
    """In which order FILM makes `count` frames: (place, frame before, frame after, time between them).

    The given frames stand at places 0 and `count` + 1. Next is always the gap whose missing frames come
    nearest to its middle, as in upstream's loop; equally near ones from the front.
    """
    # In float32, whose rounding decides between gaps that are alike, as it does upstream.
    splits = torch.linspace(0, 1, count + 2)
    known, missing = [0, count + 1], list(range(1, count + 1))
    order = []
    while missing:
        steps = []
        for place in missing:
            before = max(each for each in known if each < place)
            after = min(each for each in known if each > place)
            time = float((splits[place] - splits[before]) / (splits[after] - splits[before]))
            steps.append((place, before, after, time))
        nearest = min(steps, key=lambda step: abs(step[3] - 0.5))
        order.append(nearest)
        missing.remove(nearest[0])
        known.append(nearest[0])
    return order


def _moved(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """`image` [H, W, 3] read at each pixel's place plus its flow [H, W, 2]."""
    height, width = flow.shape[:2]
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.asarray(
        cv2.remap(
            image,
            columns + flow[..., 0],
            rows + flow[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )
