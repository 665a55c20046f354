"""Prepared clips that drive themselves: the way to grade a generator against the truth."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from portraitgen.data.catalog import Catalog
from portraitgen.data.reader import ClipReader
from portraitgen.media.yuv import yuv420_to_rgb
from portraitgen.runs.driving.clip import DrivenClip
from portraitgen.runs.driving.motion import sound_of


class ShardClips:
    """The main person's clips in shards, each with its first frame as reference.

    Raises:
        DataError: no shard matches, or one cannot be used.
    """

    def __init__(self, patterns: str | Sequence[str]) -> None:
        self._catalog = Catalog(patterns)
        self._reader = ClipReader(self._catalog)
        self._places = {
            index.key(row): (shard, row)
            for shard, index in enumerate(self._catalog.indexes)
            for row in range(len(index))
        }

    @property
    def keys(self) -> list[str]:
        return list(self._places)

    def valid_frames(self, key: str, span: Sequence[float]) -> np.ndarray:
        """Frames of a share of the clip that show the main person, int64 [N], increasing.

        Raises:
            ValueError: unknown key.
        """
        if key not in self._places:
            raise ValueError(f"no clip {key!r} in {self._catalog.shards[0].parent}")
        shard, row = self._places[key]
        index = self._catalog.indexes[shard]
        low, high = (int(np.rint(share * index.num_frames[row])) for share in span)
        runs = [range(max(start, low), min(end, high)) for _, start, end in self._runs(key)]
        return np.array([frame for run in runs for frame in run], dtype=np.int64)

    def read(self, key: str, frames: np.ndarray) -> DrivenClip:
        """These frames of a clip, increasing, with the first frame that shows the person as reference."""
        shard, row = self._places[key]
        index = self._catalog.indexes[shard]
        first = np.array([min(start for _, start, _ in self._runs(key))])
        return DrivenClip(
            key=key,
            reference=self._pictures(shard, row, first)[0],
            landmarks=self._reader.landmarks(shard, row, 0, frames),
            scheme=self._catalog.landmark_scheme,
            fps=Fraction(*index.fps[row].tolist()),
            frames=frames,
            truth=self._pictures(shard, row, frames),
            source={
                "mode": "shards",
                "shard": str(self._catalog.shards[shard].resolve()),
                "num_frames": int(index.num_frames[row]),
            },
        )

    def sound(self, key: str, frames: np.ndarray) -> np.ndarray | None:
        """What sounds during these frames, float32 [N] at `SOUND_RATE`.

        None without sound, and where frames between them are left out.
        """
        shard, row = self._places[key]
        fps = Fraction(*self._catalog.indexes[shard].fps[row].tolist())
        audio = self._reader.sample(shard, row).audio
        if audio is None or np.any(np.diff(frames) != 1):
            return None
        return sound_of(audio, float(frames[0] / fps), len(frames) / fps)

    def _runs(self, key: str) -> list[list[int]]:
        shard, row = self._places[key]
        return [run for run in self._catalog.indexes[shard].clip_runs(row).tolist() if run[0] == 0]

    def _pictures(self, shard: int, row: int, frames: np.ndarray) -> Tensor:
        height, width = self._catalog.indexes[shard].size[row].tolist()
        planes = np.empty((len(frames), height * 3 // 2, width), np.uint8)
        self._reader.frames(shard, row, frames, out=planes)
        return yuv420_to_rgb(torch.from_numpy(planes))
