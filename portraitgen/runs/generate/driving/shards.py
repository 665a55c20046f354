"""Prepared clips that drive themselves: the way to grade a generator against the truth."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from portraitgen.data.catalog import Catalog
from portraitgen.data.reader import ClipReader
from portraitgen.media.yuv import yuv420_to_rgb
from portraitgen.runs.generate.driving.clip import SOUND_RATE, DrivenClip
from portraitgen.runs.generate.driving.motion import sound_of


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

    def length(self, key: str) -> int:
        """Frames of a clip."""
        shard, row = self._places[key]
        return int(self._catalog.indexes[shard].num_frames[row])

    def rate(self, key: str) -> Fraction:
        """Frames a second of a clip."""
        shard, row = self._places[key]
        return Fraction(*self._catalog.indexes[shard].fps[row].tolist())

    @property
    def landmark_scheme(self) -> str:
        """Of all clips."""
        return self._catalog.landmark_scheme

    def read_landmarks(self, key: str, frames: np.ndarray) -> np.ndarray:
        """Landmarks of the main person in these frames, float32 [n, K, 2] in pixels."""
        return self._reader.landmarks(*self._places[key], 0, frames)

    def read(self, key: str, frames: np.ndarray, *, reference: int | None = None) -> DrivenClip:
        """These frames of a clip, increasing.

        Args:
            reference: frame that is the reference; None: the first that shows the person.
        """
        shard, row = self._places[key]
        if reference is None:
            reference = min(start for _, start, _ in self._runs(key))
        return DrivenClip(
            key=key,
            reference=self._pictures(shard, row, np.array([reference]))[0],
            landmarks=self.read_landmarks(key, frames),
            scheme=self._catalog.landmark_scheme,
            fps=self.rate(key),
            frames=frames,
            truth=self._pictures(shard, row, frames),
            source={
                "mode": "shards",
                "shard": str(self._catalog.shards[shard].resolve()),
                "num_frames": self.length(key),
                "reference_frame": reference,
            },
        )

    def sound(self, key: str, frames: np.ndarray, *, sample_rate: int = SOUND_RATE) -> np.ndarray | None:
        """What sounds during these frames, float32 [N].

        None without sound, and where frames between them are left out.
        """
        shard, row = self._places[key]
        fps = self.rate(key)
        audio = self._reader.sample(shard, row).audio
        if audio is None or np.any(np.diff(frames) != 1):
            return None
        return sound_of(audio, float(frames[0] / fps), len(frames) / fps, sample_rate=sample_rate)

    def _runs(self, key: str) -> list[list[int]]:
        shard, row = self._places[key]
        return [run for run in self._catalog.indexes[shard].clip_runs(row).tolist() if run[0] == 0]

    def _pictures(self, shard: int, row: int, frames: np.ndarray) -> Tensor:
        height, width = self._catalog.indexes[shard].size[row].tolist()
        planes = np.empty((len(frames), height * 3 // 2, width), np.uint8)
        self._reader.frames(shard, row, frames, out=planes)
        return yuv420_to_rgb(torch.from_numpy(planes))
