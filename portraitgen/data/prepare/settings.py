"""What a preparation can be told, and what it refuses."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(kw_only=True)
class PrepareSettings:
    """Settings that shape the samples; every value stands in conf/prepare.yaml with what it does.

    Raises:
        ValueError: naming the key, on a value that cannot be used.
    """

    size: int
    fps: float | None
    margin: float
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
        for key in ("size", "photo_size"):
            value = getattr(self, key)
            if value < 16 or value % 8:
                raise ValueError(f"{key}={value}: give a multiple of 8, at least 16")
        if self.fps is not None and not 1 <= self.fps <= 240:
            raise ValueError(
                f"fps={self.fps}: give 1 to 240 frames a second, or null for the source's own rate"
            )
        if self.margin < 0:
            raise ValueError(f"margin={self.margin}: give the space around the face in face sizes, 0 or more")
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
    def exact_fps(self) -> Fraction | None:
        """`fps` as the fraction that was written, None for the source's own rate."""
        return None if self.fps is None else Fraction(str(self.fps))
