"""What a visitor may ask for, so that nobody's file fills the disk, the memory or the day of the machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from portraitgen.media.audio import SAMPLE_RATE
from portraitgen.media.decode import VideoInfo, probe_video
from portraitgen.media.photo import is_photo, photo_size
from portraitgen.media.soundtrack import sound_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one visit; see conf/demo.yaml.

    Attributes:
        upload_mb: megabytes of one file.
        stored_mb: megabytes of all uploaded files that lie here at once.
        photo_megapixels: of a photo.
        video_side: pixels of the longer side of a video.
        seconds: of a video or a sound.
        frames: of a result.
        size: pixels of the longer side of a result.
        waiting: jobs in the queue.
        minutes: that one job may take.
        free_memory_mb: a job ends when the machine has less than this left.
        results: that are kept for a visit; the oldest goes.
        idle_minutes: after which a visit ends of which nothing was heard.
    """

    upload_mb: int = 200
    stored_mb: int = 4000
    photo_megapixels: float = 50
    video_side: int = 4096
    seconds: float = 60
    frames: int = 3000
    size: int = 1024
    waiting: int = 20
    minutes: float = 60
    free_memory_mb: int = 500
    results: int = 10
    idle_minutes: float = 60

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"limits.{name}={getattr(self, name)}: give more than 0")

    def check_photo(self, path: Path) -> None:
        """Refuse a photo by what its header says.

        Raises:
            ValueError: it is too large, or no photo.
        """
        self.check_size(path)
        width, height = photo_size(path)
        if width * height > self.photo_megapixels * 1e6:
            raise ValueError(
                f"{path}: {width}x{height} pixels, and this page takes photos of up to "
                f"{self.photo_megapixels:g} million; scale it down"
            )

    def check_video(self, path: Path) -> VideoInfo | None:
        """Refuse a video by its length and size; what it is, None of a picture or a landmark file.

        Raises:
            ValueError: it is too large or too long, or cannot be read.
        """
        self.check_size(path)
        if path.suffix.lower() in (".npz", ".npy"):
            return None
        if is_photo(path):
            self.check_photo(path)
            return None
        info = probe_video(path)
        if max(info.width, info.height) > self.video_side:
            raise ValueError(
                f"{path}: {info.width}x{info.height} pixels, and this page takes videos of up to "
                f"{self.video_side} a side; scale it down"
            )
        self._check_seconds(path, info.duration_s)
        return info

    def check_sound(self, path: Path) -> np.ndarray:
        """Refuse a sound by its length; what is heard, float32 [N] at `SAMPLE_RATE`.

        Raises:
            ValueError: it is too long, there is none, or it cannot be read.
        """
        self.check_size(path)
        blocks: list[np.ndarray] = []
        heard = 0
        for block in sound_blocks(path, sample_rate=SAMPLE_RATE):
            blocks.append(block.mean(0))
            heard += block.shape[-1]
            self._check_seconds(path, heard / SAMPLE_RATE)
        if not heard:
            raise ValueError(f"{path}: there is no sound in this file")
        return np.concatenate(blocks)

    def check_wanted(self, values: Mapping[str, Any]) -> None:
        """Refuse a result that is too large or too long.

        Args:
            values: key → value as typed, of the keys that were given.

        Raises:
            ValueError: names the key.
        """
        size, length, fps = (values.get(name) for name in ("size", "length", "fps"))
        for side in size if isinstance(size, list) else [size]:
            if side is not None and side > self.size:
                raise ValueError(f"size: {side} pixels, and this page draws up to {self.size}")
        if length is not None and length > self.frames:
            raise ValueError(f"length: {length} frames, and this page draws up to {self.frames}")
        if fps is not None and fps * self.seconds > self.frames:
            raise ValueError(f"fps: {fps:g}, and this page draws up to {self.frames / self.seconds:g}")

    def check_size(self, path: Path) -> None:
        """Refuse a file by its size.

        Raises:
            ValueError: it is too large.
        """
        megabytes = path.stat().st_size / 1e6
        if megabytes > self.upload_mb:
            raise ValueError(
                f"{path}: {megabytes:.0f} megabytes, and this page takes files of up to {self.upload_mb}"
            )

    def _check_seconds(self, path: Path, seconds: float) -> None:
        if seconds > self.seconds:
            raise ValueError(f"{path}: more than the {self.seconds:g} seconds that this page takes; cut it")
