"""The pose guider's maps while a clip is sampled: which statistics, which range, and how many are kept."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from portraitgen.diffusion.frame_conditions import FrameCondition, count_frames, take_frames
from portraitgen.systems.aniportrait.network import AniPortraitNetwork

PoseStats = Literal["running", "window", "clip"]
PoseRange = Literal["training", "upstream"]

STATISTICS_FRAMES = 32
"""Frames that `clip` statistics are taken of, evenly spread: every one of a clip that has no more."""


class PoseMaps:
    """Maps of the windows of B clips: the same at every denoising step, so made once and kept.

    Args:
        network: in evaluation mode, its pose guider in float32.
        drawings: [B, T, 3, 8h, 8w] in [-1, 1].
        stats: see `AniPortraitPipeline`.
        value_range: likewise.
        capacity: bytes of maps that are kept; those of further windows are made at each step anew.
    """

    def __init__(
        self,
        network: AniPortraitNetwork,
        drawings: FrameCondition,
        *,
        stats: PoseStats,
        value_range: PoseRange,
        capacity: int,
    ) -> None:
        self._network = network
        self._drawings = drawings
        self._stats = stats
        self._value_range = value_range
        self._capacity = capacity
        self._kept: dict[tuple[int, ...], tuple[Tensor, ...]] = {}
        self.num_bytes = 0
        """Bytes of the maps that are kept, never more than the capacity."""
        self._clip_statistics = self._measure_clips() if stats == "clip" else []

    def of_window(self, frames: Sequence[int]) -> tuple[Tensor, ...]:
        """Maps [B, n, c, h', w'] of these frames for every level."""
        key = tuple(frames)
        if key in self._kept:
            return self._kept[key]
        maps = self._encode(self._take(frames))
        dtype = self._network.denoising_unet.conv_in.weight.dtype
        if dtype != torch.float32:  # else autocast may be at work, and has chosen
            maps = tuple(level.to(dtype) for level in maps)
        num_bytes = sum(level.numel() * level.element_size() for level in maps)
        if self.num_bytes + num_bytes <= self._capacity:
            self._kept[key] = maps
            self.num_bytes += num_bytes
        return maps

    def of_windows(self, windows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Maps of several windows, rows in the order of `WindowBatch`."""
        parts = [self.of_window(window) for window in windows]
        return [level[0] if len(level) == 1 else torch.cat(level) for level in zip(*parts, strict=True)]

    def _take(self, frames: Sequence[int]) -> Tensor:
        drawings = take_frames(self._drawings, frames).to(self._network.pose_guider.scale.device)
        if self._value_range == "upstream":
            return ((drawings + 1) * 127.5).round() * 2 - 1
        return drawings

    def _encode(self, drawings: Tensor) -> tuple[Tensor, ...]:
        guider = self._network.pose_guider
        if self._stats == "window":
            clips = [guider.measure(clip)[0] for clip in drawings]
        elif self._stats == "clip":
            clips = [
                functional_call(guider, statistics, (clip,))
                for clip, statistics in zip(drawings, self._clip_statistics, strict=True)
            ]
        else:
            return self._network.encode_pose(drawings)
        return tuple(torch.stack(level) for level in zip(*clips, strict=True))

    def _measure_clips(self) -> list[dict[str, Tensor]]:
        num_frames = count_frames(self._drawings)
        count = min(num_frames, STATISTICS_FRAMES)
        spread = torch.linspace(0, num_frames - 1, count).round().long().tolist()
        return [self._network.pose_guider.measure(clip)[1] for clip in self._take(spread)]
