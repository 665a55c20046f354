"""A clip cut to the size that a model is trained at, with its face in the picture.

ConsisID cuts the middle out when it loads a clip, which leaves its own portrait sample (720x940, cut to
720x480) without the face, and the masked loss with nothing to average.
"""

from dataclasses import replace

import numpy as np

from portraitgen.data.formats.consisid.layout import join_masks
from portraitgen.data.sample import ClipMasks, ClipRegion, ClipTrack
from portraitgen.media.framing import Framing, covering_frame
from portraitgen.media.geometry import union_box
from portraitgen.media.masks import decode_rle, encode_rle


def framing_of(track: ClipTrack, *, image_size: tuple[int, int], size: tuple[int, int]) -> Framing:
    """What is shown of all frames: the middle, moved as far as needed to hold a person's face in all of
    them.
    """
    found = track.boxes[np.isfinite(track.boxes).all(axis=1)]
    return covering_frame(union_box(found), image_size=image_size, size=size)


def framed_track(track: ClipTrack, framing: Framing) -> ClipTrack:
    """A person in pixels of what is shown; frames are valid where the middle of the box is in the picture."""

    def region(old: ClipRegion | None) -> ClipRegion | None:
        if old is None:
            return None
        boxes = framing.boxes_to_frame(old.boxes)
        return replace(old, boxes=boxes, valid=old.valid & _shown(boxes, framing.size))

    boxes = framing.boxes_to_frame(track.boxes)
    return replace(
        track,
        boxes=boxes,
        keypoints=framing.to_frame(track.keypoints),
        landmarks=framing.to_frame(track.landmarks),
        valid=track.valid & _shown(boxes, framing.size),
        head=region(track.head),
        person=region(track.person),
    )


def framed_masks(masks: ClipMasks | None, framing: Framing, image_size: tuple[int, int]) -> ClipMasks | None:
    """Masks of pictures of `image_size` (height, width) as they are shown."""
    if masks is None:
        return None
    pairs = zip(masks.offsets[:-1], masks.offsets[1:], strict=True)
    stored = (decode_rle(masks.runs[first:end], image_size) for first, end in pairs)
    return join_masks(
        [encode_rle(framing.cut_masks(mask[None])[0]) for mask in stored], masks.ids, masks.source
    )


def _shown(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool [T]: whether the middle of each box [T, 4] is inside; False where it is NaN."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.asarray(((middle >= 0) & (middle < np.array([size[1], size[0]]))).all(axis=1))
