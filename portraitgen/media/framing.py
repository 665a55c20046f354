"""Which part of a picture is shown, and how points move along: no picture is ever squashed.

A part is a rectangle of any proportion that may reach beyond the picture, where it is black. Boxes are xyxy
in continuous pixels.
"""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, slots=True)
class Framing:
    """`width` x `height` pixels of a picture from (x, y) on, shown as `size` (height, width) pixels."""

    x: int
    y: int
    width: int
    height: int
    size: tuple[int, int]

    def cut(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> uint8 [*size, 3]; area means when it shrinks, cubic when it grows."""
        part = np.zeros((self.height, self.width, 3), np.uint8)
        rows, columns = image.shape[:2]
        top, bottom = np.clip([self.y, self.y + self.height], 0, rows)
        left, right = np.clip([self.x, self.x + self.width], 0, columns)
        inside = image[top:bottom, left:right]
        part[top - self.y : bottom - self.y, left - self.x : right - self.x] = inside
        if part.shape[:2] == self.size:
            return part
        how = cv2.INTER_AREA if self.height > self.size[0] else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(part, (self.size[1], self.size[0]), interpolation=how))

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 2] from pixels of the source to pixels of what is shown, float32."""
        stretch = np.array([self.size[1] / self.width, self.size[0] / self.height])
        return np.asarray((points - np.array([self.x, self.y])) * stretch, np.float32)


def frame_inside(box: np.ndarray, *, image_size: tuple[int, int], size: tuple[int, int]) -> Framing:
    """The smallest rectangle of the proportion of `size` around a box [4], moved to lie inside the picture.

    It is no larger than the picture, so that none of it is black; a box that does not fit is cut.
    """
    height, width = image_size
    aspect = size[1] / size[0]
    box_width, box_height = box[2:] - box[:2]
    wanted = max(float(box_width), float(box_height) * aspect)
    shrink = min(1.0, width / wanted, height * aspect / wanted)
    columns = min(max(round(wanted * shrink), 1), width)
    rows = min(max(round(wanted / aspect * shrink), 1), height)
    left, top = (box[:2] + box[2:] - (columns, rows)) / 2
    return Framing(
        int(np.clip(np.round(left), 0, width - columns)),
        int(np.clip(np.round(top), 0, height - rows)),
        columns,
        rows,
        size,
    )


def frame_around(box: np.ndarray, *, size: tuple[int, int]) -> Framing:
    """The smallest rectangle of the proportion of `size` that holds all of a box [4] of whole pixels.

    What it has beyond the picture is black: with the picture itself as the box, this is a letterbox.
    """
    aspect = size[1] / size[0]
    box_width, box_height = (int(side) for side in box[2:] - box[:2])
    columns = max(box_width, round(box_height * aspect))
    rows = max(box_height, round(box_width / aspect))
    left, top = int(box[0]) - (columns - box_width) // 2, int(box[1]) - (rows - box_height) // 2
    return Framing(left, top, columns, rows, size)


def face_frame(
    box: np.ndarray, *, image_size: tuple[int, int], size: tuple[int, int], margin: float
) -> Framing:
    """The face with `margin` face sizes to spare on each side: as prepared clips show it.

    A face's size is the longer side of its box [4].
    """
    spare = margin * float((box[2:] - box[:2]).max()) * np.array([-1, -1, 1, 1])
    return frame_inside(box + spare, image_size=image_size, size=size)


def largest_frame(box: np.ndarray, *, image_size: tuple[int, int], size: tuple[int, int]) -> Framing:
    """As much of the picture as has the proportion of `size`, with the face's box [4] in its middle."""
    height, width = image_size
    centre = np.tile((box[:2] + box[2:]) / 2, 2)
    everything = centre + np.array([-width, -height, width, height]) / 2
    return frame_inside(everything, image_size=image_size, size=size)


def upstream_box(points: np.ndarray, *, image_size: tuple[int, int]) -> np.ndarray:
    """What AniPortrait cuts out around a face mesh [K, 2] (pixels) before all else: int64 [4].

    The middle square of a picture that the face fills to 15 % or more; otherwise one and a half times the
    face's longer side around it, black beyond the picture. Where the sides differ by one pixel the official
    code returns an empty picture; this is the square there, too.
    """
    height, width = image_size
    low, high = points.min(axis=0), points.max(axis=0)
    if np.prod(high - low) >= 0.15 * width * height:
        side = min(height, width)
        corner = np.array([(width - side) // 2, (height - side) // 2])
        return np.concatenate([corner, corner + side])
    half = 1.5 * (high - low).max() / 2
    centre = (low + high) / 2
    return np.concatenate([np.trunc(centre - half), np.trunc(centre + half)]).astype(np.int64)
