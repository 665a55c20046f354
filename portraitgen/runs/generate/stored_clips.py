"""Prepared clips and photos as requests: pictures, landmarks and sound of the main person, and the truth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from portraitgen.data.catalog import Catalog
from portraitgen.data.manifest import shard_digest
from portraitgen.data.reader import ClipReader
from portraitgen.faces.backend import keypoints_from_ibug68
from portraitgen.media.audio import SAMPLE_RATE
from portraitgen.media.sound import SOUND_RATE, sound_of
from portraitgen.media.yuv import yuv420_to_rgb
from portraitgen.training.request import Request


class ShardClips:
    """The main person's clips and photos in shards, each with its first frame as reference.

    Raises:
        DataError: no shard matches, or one cannot be used.
    """

    def __init__(self, patterns: str | Sequence[str]) -> None:
        self._catalog = Catalog(patterns)
        self._reader = ClipReader(self._catalog)
        self._digests: dict[int, str | None] = {}
        self._places = {
            index.key(row): (shard, row)
            for shard, index in enumerate(self._catalog.indexes)
            for row in range(len(index))
        }

    @property
    def keys(self) -> list[str]:
        return list(self._places)

    @property
    def landmark_scheme(self) -> str:
        """Of all clips."""
        return self._catalog.landmark_scheme

    def clips(self, span: Sequence[float]) -> Iterator["ShardClip"]:
        """Those that show the person in a share of their frames, with the frames of it."""
        for key in self.keys:
            frames = self.valid_frames(key, span)
            if len(frames):
                yield ShardClip(self, key, frames)

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
        """Frames of a clip; 1 of a photo."""
        shard, row = self._places[key]
        return int(self._catalog.indexes[shard].num_frames[row])

    def rate(self, key: str) -> Fraction | None:
        """Frames a second of a clip; None of a photo."""
        shard, row = self._places[key]
        index = self._catalog.indexes[shard]
        return None if index.packets(row) is None else Fraction(*index.fps[row].tolist())

    def landmarks(self, key: str, frames: np.ndarray) -> np.ndarray:
        """Landmarks of the main person in these frames, float32 [n, K, 2] in pixels."""
        return self._reader.landmarks(*self._places[key], 0, frames)

    def key_points(self, key: str) -> np.ndarray:
        """Of everybody in a photo, else of the main person: float32 [P, 5, 2] in pixels."""
        shard, row = self._places[key]
        if self.rate(key) is None:
            points = self._reader.people(shard, row)[1]
            return points[np.isfinite(points).all(axis=(1, 2))]
        return keypoints_from_ibug68(self.landmarks(key, np.array([self.first_frame(key)])))

    def pictures(self, key: str, frames: np.ndarray) -> Tensor:
        """These frames, increasing, float [n, 3, H, W] in [-1, 1]."""
        shard, row = self._places[key]
        height, width = self._catalog.indexes[shard].size[row].tolist()
        planes = np.empty((len(frames), height * 3 // 2, width), np.uint8)
        self._reader.frames(shard, row, frames, out=planes)
        return yuv420_to_rgb(torch.from_numpy(planes))

    def sound(self, key: str, frames: np.ndarray, *, sample_rate: int = SOUND_RATE) -> np.ndarray | None:
        """What sounds during these frames, float32 [N].

        None without sound, and where frames between them are left out.
        """
        shard, row = self._places[key]
        fps = self.rate(key)
        audio = self._reader.sample(shard, row).audio
        if audio is None or fps is None or np.any(np.diff(frames) != 1):
            return None
        sound = sound_of(audio, float(frames[0] / fps), len(frames) / fps, sample_rate=sample_rate)
        return None if sound is None else sound[0]

    def caption(self, key: str) -> str | None:
        """What the clip or photo shows, in words."""
        shard, row = self._places[key]
        return self._reader.sample(shard, row).caption

    def first_frame(self, key: str) -> int:
        """The first that shows the person."""
        return min(start for _, start, _ in self._runs(key))

    def shard(self, key: str) -> str:
        """Path or address of the shard that holds a clip."""
        shard = self._catalog.shards[self._places[key][0]]
        return str(shard.resolve() if isinstance(shard, Path) else shard)

    def shard_digest(self, key: str) -> str | None:
        """SHA-256 of that shard as its manifest states it; None where none does."""
        shard = self._places[key][0]
        if shard not in self._digests:
            self._digests[shard] = shard_digest(self._catalog.shards[shard])
        return self._digests[shard]

    def _runs(self, key: str) -> list[list[int]]:
        shard, row = self._places[key]
        return [run for run in self._catalog.indexes[shard].clip_runs(row).tolist() if run[0] == 0]


@dataclass(frozen=True, slots=True, eq=False)
class ShardClip:
    """A clip or photo of shards, as `training.request.StoredClip` describes it."""

    clips: ShardClips
    key: str
    frames: np.ndarray

    @property
    def length(self) -> int:
        return self.clips.length(self.key)

    @property
    def rate(self) -> Fraction | None:
        return self.clips.rate(self.key)

    @property
    def landmark_scheme(self) -> str:
        return self.clips.landmark_scheme

    def valid_frames(self, span: Sequence[float]) -> np.ndarray:
        return self.clips.valid_frames(self.key, span)

    def landmarks(self, frames: np.ndarray) -> np.ndarray:
        return self.clips.landmarks(self.key, frames)

    def key_points(self) -> np.ndarray:
        return self.clips.key_points(self.key)

    def pictures(self, frames: np.ndarray) -> Tensor:
        return self.clips.pictures(self.key, frames)

    def sound(self, frames: np.ndarray, *, sample_rate: int = SOUND_RATE) -> np.ndarray | None:
        return self.clips.sound(self.key, frames, sample_rate=sample_rate)

    def request(self, *, reference: int | None = None, frames: np.ndarray | None = None) -> Request:
        """See `StoredClip.request`; the sound is in the batch too, as `audio` [1, N] at 16 kHz."""
        if reference is None:
            reference = self.clips.first_frame(self.key)
        frames = self.frames if frames is None else frames
        landmarks = self.landmarks(frames)
        batch: dict[str, Any] = {
            "key": [self.key],
            "reference": self.pictures(np.array([reference])),
            "reference_landmarks": torch.from_numpy(self.landmarks(np.array([reference])).copy()),
            "reference_index": torch.tensor([reference]),
            "landmarks": torch.from_numpy(landmarks.copy())[None],
            "frame_index": torch.from_numpy(frames)[None],
        }
        caption = self.clips.caption(self.key)
        if caption is not None:
            batch["caption"] = [caption]
        heard = self.sound(frames, sample_rate=SAMPLE_RATE)
        if heard is not None:
            batch["audio"] = torch.from_numpy(heard)[None]
        is_clip = self.rate is not None
        return Request(
            key=self.key,
            batch=batch,
            length=len(frames) if is_clip else None,
            fps=self.rate,
            sound=self.sound(frames),
            frames=frames if is_clip else None,
            truth=self.pictures(frames),
            landmarks=landmarks,
            scheme=self.landmark_scheme,
            prompt=caption,
            source={
                "mode": "shards",
                "clip": self.key,
                "shard": self.clips.shard(self.key),
                "shard_sha256": self.clips.shard_digest(self.key),
                "num_frames": self.length,
                "reference_frame": reference,
            },
        )
