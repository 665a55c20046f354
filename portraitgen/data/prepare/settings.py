"""What a preparation can be told, and what it refuses."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


@dataclass(kw_only=True)
class PrepareSettings:
    """Settings that shape the samples; every value stands in conf/prepare.yaml with what it does.

    Raises:
        ValueError: naming the key, on a value that cannot be used.
    """

    size: Any  # a side, or [height, width]
    fps: float | None
    margin: float | None
    min_frames: int
    max_frames: int
    crf: int
    embed_every: int = 6
    face_size: int = 224
    photo_size: int
    videos_per_shard: int
    photos_per_shard: int
    licence: str | None

    def __post_init__(self) -> None:
        self.size = _plain(self.size)
        if self.photo_size < 16 or self.photo_size % 8:
            raise ValueError(f"photo_size={self.photo_size}: give a multiple of 8, at least 16")
        if self.fps is not None and not 1 <= self.fps <= 240:
            raise ValueError(
                f"fps={self.fps}: give 1 to 240 frames a second, or null for the source's own rate"
            )
        if self.margin is not None and self.margin < 0:
            raise ValueError(
                f"margin={self.margin}: give the space around the face in face sizes, 0 or more, or null for"
                " as much of the picture as there is"
            )
        if self.face_size <= 0 or self.face_size % 112:
            raise ValueError(
                f"face_size={self.face_size}: give a multiple of 112, the side of ArcFace's crop"
            )
        if self.embed_every < 0:
            raise ValueError(f"embed_every={self.embed_every}: give a number of frames, or 0 for none")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf={self.crf}: H.264 takes 0 (lossless) to 51")
        for key in ("min_frames", "videos_per_shard", "photos_per_shard"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)}: give a whole number, at least 1")
        if self.max_frames < self.min_frames:
            raise ValueError(f"max_frames={self.max_frames} is below min_frames={self.min_frames}")

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the clips."""
        height, width = [self.size] * 2 if isinstance(self.size, int) else self.size
        return height, width

    @property
    def exact_fps(self) -> Fraction | None:
        """`fps` as the fraction that was written, None for the source's own rate."""
        return None if self.fps is None else Fraction(str(self.fps))


def _plain(size: Any) -> int | list[int]:
    """`size` as JSON has it: a side, or a list of height and width.

    Raises:
        ValueError: it is neither, or not of multiples of 8.
    """
    is_side = isinstance(size, int)
    sides = [size, size] if is_side else list(size) if isinstance(size, Iterable) else []
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if isinstance(size, str) or len(sides) != 2 or not whole:
        raise ValueError(f"size={size}: give the side of a square, or [height,width]")
    if any(side < 16 or side % 8 for side in sides):
        multiples = "a multiple" if is_side else "multiples"
        raise ValueError(f"size={size}: give {multiples} of 8, at least 16")
    return sides[0] if is_side else sides
