"""What a batch holds: the one table of its keys, shapes and dtypes, and how it lies in memory.

A batch is a plain dict. A key is there if the examples (`ClipExamples`, `PhotoExamples`, `PairExamples`) are
asked for it.
B samples, T frames of a window, M motion frames, P places for people, K landmarks, H x W the size shown. Left
as it comes out of the loader, right as systems see it, after `data/on_device` has been over it. Positions are
pixels of what the batch shows.

Of clips:

    key                  list of B str
    frames               uint8 [B, T, 3H/2, W]      float [B, T, 3, H, W] in [-1, 1]
    frame_index          int64 [B, T]               in the clip
    landmarks            float [B, T, K, 2]
    reference            uint8 [B, 3H/2, W]         float [B, 3, H, W] in [-1, 1]
    reference_index      int64 [B]
    reference_landmarks  float [B, K, 2]
    motion               uint8 [B, M, 3H/2, W]      float [B, M, 3, H, W] in [-1, 1], from before T
    motion_index         int64 [B, M]               oldest first; -1 where the clip begins later
    motion_found         bool  [B, M]               which of them there are; the others are 0 everywhere
    motion_landmarks     float [B, M, K, 2]
    pose                 uint8 [B, T, 3, Hp, Wp]    float in [-1, 1]; the landmarks drawn on black
    masks                uint8 [B, T, H, W]         float [B, T, 1, H, W], 0/1, of the window's person
    key_points           float [B, T, 5, 2]         ArcFace's order
    boxes                float [B, T, 4]            of the face, xyxy
    audio                float [B, N]               16 kHz, in [-1, 1]; begins with the first frame and ends
                                                    where the frame after the last one would begin, or as
                                                    many frames before and after as `sound_margin` says
    fps                  float [B]                  frames a second of the clip
    caption              list of B str

In validation there is beside:

    position             int64 [B]                  which of the examples it is, whoever reads it

Of photos, people with the largest face first; places without anybody are 0:

    key                  list of B str
    image                uint8 [B, H, W, 3]         float [B, 3, H, W] in [-1, 1]
    people               bool  [B, P]               which places hold somebody
    boxes                float [B, P, 4]            of the face, xyxy
    key_points           float [B, P, 5, 2]
    landmarks            float [B, P, K, 2]
    masks                uint8 [B, P, H, W]         float [B, P, 1, H, W], 0/1
    faces                uint8 [B, P, S, S, 3]      float [B, P, 3, S, S] in [-1, 1], ArcFace's crops
    other                uint8 [B, P, S, S, 3]      float [B, P, 3, S, S], of another photo of the person
    other_found          bool  [B, P]               where there is one
    identity_name        list of B lists of P str   "" where nobody knows
    caption              list of B str

Of pairs of photos of one person, what photos have of that person (people, boxes, key_points, faces, caption;
P = 1), with these in the place of `image`:

    result               uint8 [B, H, W, 3]         float [B, 3, H, W] in [-1, 1], what shall come out
    mask                 uint8 [B, H, W]            float [B, 1, H, W], 0/1, what of it is covered
    src                                             float [B, 3, H, W], `result`, and 0 where it is covered
    ref                  uint8 [B, h, w, 3]         float [B, 3, h, w] in [-1, 1], the person elsewhere
    ref_key_points       float [B, 5, 2]            in pixels of `ref`
    data_type            list of B str              "person_head" or "person", by what is covered

Pictures that cross as [3H/2, W] are I420 planes, BT.601 limited range. Precomputed features (docs/data.md)
add keys of their own, such as

    latents              float16 [B, T, C, h, w]    in the precision of the landmarks; of a video codec, which
                                                    has fewer latents than frames, [B, t, C, h, w]
    latent_distribution  float16 [B, T, 2, C, h, w] mean and standard deviation, in their place
    reference_latents    float16 [B, C, h, w]
    image_embeds         float16 [B, T, D]          CLIP's, and reference_image_embeds [B, D]
    motion_latents       float16 [B, M, C, h, w]
    speech               float16 [B, T, L, D]       hidden states; [B, T + 2m, L, D] with a
                                                    `sound_margin` of m
    identity             float32 [B, D] of the window's person, [B, P, D] of a photo's people
    face_embedding       float32 [B, D + E]         of one face of the window's person: a recogniser's, not
                                                    normalised, and CLIP's projection, of unit length
    face_hidden          float16 [B, 5, N, C]       of the same face: inner layers of CLIP, early ones first
    face_picture         uint8 [B, S, S, 3]         float [B, 3, S, S] in [-1, 1]: it, upright and on white
    face_key_points      float32 [B, 5, 2]          of it, in pixels of face_picture
    face_index           int64 [B]                  the frame that it is from
    face_latent_distribution  float16 [B, V, n, 2, C, h, w]  of V noised versions of face_picture, and of
                                                    its key points drawn (n = 2), mean and standard deviation
                                                    of the latents
    prompt_embeds        float16 [B, L, D]          of the caption, zeros where
    prompt_mask          bool    [B, L]             is False
    pooled_prompt_embeds float16 [B, P]

With these comes what they are of the empty prompt, the same in every batch: empty_prompt_embeds [1, L, D],
empty_prompt_mask [1, L] and empty_pooled_prompt_embeds [1, P].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

UINT8, INT64, FLOAT32, BOOL = (np.dtype(kind) for kind in (np.uint8, np.int64, np.float32, np.bool_))

# Fields start at multiples of a cache line.
_ALIGNMENT = 64


class Field(NamedTuple):
    """Shape of one sample's part and dtype of a batch entry."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """The tensors of a batch in one block of memory, so that it crosses from a worker as one shared slab."""

    fields: Mapping[str, Field]

    def num_bytes(self, batch_size: int) -> int:
        """Bytes of a block that holds a batch."""
        return sum(
            _aligned(batch_size * prod(shape) * dtype.itemsize) for shape, dtype in self.fields.values()
        )

    def views(self, block: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
        """The batch's arrays, all of them views of `block` (uint8, at least `num_bytes`)."""
        arrays, offset = {}, 0
        for name, (shape, dtype) in self.fields.items():
            size = batch_size * prod(shape) * dtype.itemsize
            arrays[name] = block[offset : offset + size].view(dtype).reshape(batch_size, *shape)
            offset += _aligned(size)
        return arrays


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
