"""What a batch of clips holds: the one table of its keys, shapes and dtypes."""

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

PICTURES = ("frames", "reference")

# Fields start at multiples of a cache line.
_ALIGNMENT = 64


class Field(NamedTuple):
    """Shape of one sample's part and dtype of a batch entry."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """The tensors of a batch of B clips, as they come out of the loader:

        key                  list of B str
        frames               uint8   [B, T, 3H/2, W]    I420 planes, BT.601 limited range
        frame_index          int64   [B, T]             in the clip
        landmarks            float32 [B, T, K, 2]       pixels of the clip
        reference            uint8   [B, 3H/2, W]       I420 planes
        reference_index      int64   [B]
        reference_landmarks  float32 [B, K, 2]
        pose                 uint8   [B, T, 3, Hp, Wp]  landmarks drawn on black; only with `pose_size`
        masks                uint8   [B, T, H, W]       0/1, of the person's face, head or all; with `masks`
        audio                float32 [B, N]             16 kHz, in [-1, 1]; only with `audio_samples`

    and of precomputed features (see docs/data.md), each only if asked for:

        latents              float16 [B, T, C, h, w]    of the frames, as the codec's `encode` gives them
        reference_latents    float16 [B, C, h, w]
        image_embeds         float16 [B, T, D]          CLIP's, and reference_image_embeds [B, D]
        speech               float16 [B, T, L, D]       hidden states, and reference_speech [B, L, D]
        identity             float32 [B, D]             of the window's person
        caption              list of B str

    The sound begins with the first frame and ends where the frame after the last one would begin.

    After `ClipDataModule.on_after_batch_transfer`, which is what systems see, the pictures are float
    in [-1, 1]: frames [B, T, 3, H, W], reference [B, 3, H, W], pose [B, T, 3, Hp, Wp]; and masks are float
    0/1 [B, T, 1, H, W]; and features have the precision of the landmarks. Pictures that are not read are not
    there; their landmarks are.

    All of them lie in one block of memory, so that a batch crosses from a worker as one shared slab.

    Attributes:
        clip_frames: T.
        size: (H, W) of the clips.
        num_landmarks: K.
        pose_size: (Hp, Wp), or None for no pose.
        masks: whether there are masks.
        pictures: which of frames and reference there are.
        audio_samples: N, 0 for no sound.
        features: names and fields of the features that are tensors.
    """

    clip_frames: int
    size: tuple[int, int]
    num_landmarks: int
    pose_size: tuple[int, int] | None = None
    masks: bool = False
    pictures: tuple[str, ...] = PICTURES
    audio_samples: int = 0
    features: tuple[tuple[str, Field], ...] = ()

    def fields(self) -> dict[str, Field]:
        height, width = self.size
        picture = (height * 3 // 2, width)
        points = (self.num_landmarks, 2)
        uint8, int64, float32 = np.dtype(np.uint8), np.dtype(np.int64), np.dtype(np.float32)
        table = {
            "frames": Field((self.clip_frames, *picture), uint8),
            "frame_index": Field((self.clip_frames,), int64),
            "landmarks": Field((self.clip_frames, *points), float32),
            "reference": Field(picture, uint8),
            "reference_index": Field((), int64),
            "reference_landmarks": Field(points, float32),
        }
        for name in PICTURES:
            if name not in self.pictures:
                del table[name]
        if self.audio_samples:
            table["audio"] = Field((self.audio_samples,), float32)
        if self.pose_size is not None:
            table["pose"] = Field((self.clip_frames, 3, *self.pose_size), uint8)
        if self.masks:
            table["masks"] = Field((self.clip_frames, height, width), uint8)
        return table | dict(self.features)

    def num_bytes(self, batch_size: int) -> int:
        """Bytes of a block that holds a batch."""
        return sum(
            _aligned(batch_size * prod(shape) * dtype.itemsize) for shape, dtype in self.fields().values()
        )

    def views(self, block: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
        """The batch's arrays, all of them views of `block` (uint8, at least `num_bytes`)."""
        arrays, offset = {}, 0
        for name, (shape, dtype) in self.fields().items():
            size = batch_size * prod(shape) * dtype.itemsize
            arrays[name] = block[offset : offset + size].view(dtype).reshape(batch_size, *shape)
            offset += _aligned(size)
        return arrays


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
