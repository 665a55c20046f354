"""What a clip shows of its video: one rectangle for all its frames, so that only the head moves."""

import numpy as np

from portraitgen.media.framing import Framing, frame_inside, largest_frame
from portraitgen.media.geometry import union_box


def choose_crop(
    boxes: np.ndarray, *, image_size: tuple[int, int], size: tuple[int, int], margin: float | None
) -> Framing:
    """The rectangle around all face boxes [N, 4] of one person, `margin` face sizes to spare on each side.

    A face's size is its box's longer side, the median over the frames. The margin counts in face sizes and
    not in the union of the boxes, so that a moving head is not shown from further away than a still one.

    The rectangle has the proportion of `size`, is shifted to lie inside the frame and is no larger than it:
    pixels are never made up or squashed. Where the faces do not fit into that (somebody crosses a wide
    picture), it is centred on their union.

    Args:
        boxes: xyxy in pixels of the source.
        image_size: (height, width) of the source.
        size: (height, width) of the result in pixels.
        margin: None for as much of the frame as has the proportion.
    """
    around = union_box(boxes)
    if margin is None:
        return largest_frame(around, image_size=image_size, size=size)
    face = float(np.median((boxes[:, 2:] - boxes[:, :2]).max(axis=1)))
    spare = margin * face * np.array([-1, -1, 1, 1])
    return frame_inside(around + spare, image_size=image_size, size=size)
