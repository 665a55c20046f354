"""Which part of a picture is shown, and how points move along: no picture is ever squashed.

A part is a rectangle of any proportion that may reach beyond the picture, where it is black. Boxes are xyxy
in continuous pixels.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from portraitgen.media.geometry import box_area, expand_box, union_box


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
        return part if part.shape[:2] == self.size else _resized(part, self.size)

    def part(self, image: np.ndarray, *, reduced: int = 1) -> np.ndarray:
        """The same of a picture whose sides are divided by `reduced`; where nothing is scaled it is a view.

        The framing must lie inside the picture, on a grid of `reduced` pixels (see `on_grid`).
        """
        assert (self.x | self.y | self.width | self.height) % reduced == 0, (self, reduced)
        x, y, columns, rows = (value // reduced for value in (self.x, self.y, self.width, self.height))
        inside = image[y : y + rows, x : x + columns]
        return inside if inside.shape[:2] == self.size else _resized(inside, self.size)

    def cut_planes(self, planes: np.ndarray, *, out: np.ndarray) -> None:
        """The same of I420 planes, uint8 [N, 3H/2, W] -> `out` [N, 3H'/2, W'], (H', W') being `size`.

        Luma and chroma are scaled by themselves, so no colour is converted. The framing must lie inside the
        picture, on even pixels (see `on_grid`).
        """
        assert (self.x | self.y | self.width | self.height) % 2 == 0, self
        rows, columns = planes.shape[-2] // 3 * 2, planes.shape[-1]
        (height, width), half = self.size, (self.size[0] // 2, self.size[1] // 2)
        y, x = self.y // 2, self.x // 2
        for picture, target in zip(planes, out, strict=True):
            luma = picture[self.y : self.y + self.height, self.x : self.x + self.width]
            target[:height] = _resized(luma, (height, width))
            chroma = picture[rows:].reshape(2, rows // 2, columns // 2)
            for plane, smaller in zip(chroma, target[height:].reshape(2, *half), strict=True):
                part = plane[y : y + self.height // 2, x : x + self.width // 2]
                smaller[...] = _resized(part, half)

    def cut_masks(self, masks: np.ndarray) -> np.ndarray:
        """The same of masks, bool [N, H, W] -> bool [N, *size]: the pixel at the place of each."""
        rows = np.floor(self.y + (np.arange(self.size[0]) + 0.5) * self.height / self.size[0]).astype(int)
        columns = np.floor(self.x + (np.arange(self.size[1]) + 0.5) * self.width / self.size[1]).astype(int)
        return np.asarray(masks[:, rows[:, None], columns])

    def on_grid(self, step: int) -> "Framing":
        """The same with its corners at every `step`-th pixel, for pictures that hold only those."""
        x, y = self.x // step * step, self.y // step * step
        columns, rows = (max(side // step * step, step) for side in (self.width, self.height))
        return Framing(x, y, columns, rows, self.size)

    @property
    def affine(self) -> np.ndarray:
        """float32 [2, 3]: pixels of what is shown -> pixels of the source."""
        across, down = self.width / self.size[1], self.height / self.size[0]
        return np.array([[across, 0, self.x], [0, down, self.y]], np.float32)

    def boxes_to_frame(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [..., 4] from pixels of the source to pixels of what is shown, float32."""
        return self.to_frame(boxes.reshape(*boxes.shape[:-1], 2, 2)).reshape(boxes.shape)

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 2] from pixels of the source to pixels of what is shown, float32."""
        stretch = np.array([self.size[1] / self.width, self.size[0] / self.height])
        return np.asarray((points - np.array([self.x, self.y])) * stretch, np.float32)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, ...] -> [*size, ...]; area means when it shrinks, cubic when it grows."""
    how = cv2.INTER_AREA if image.shape[0] > size[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=how))


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


def faces_frame(
    boxes: np.ndarray, *, image_size: tuple[int, int], size: tuple[int, int], margin: float = 0.3
) -> Framing:
    """As much of the picture as has the proportion of `size`, with all faces [N, 4] in it if they fit.

    Where they do not, the smallest are given up, one after the other; where they fit only without `margin`
    (in sides of their boxes, on each side) they are without. The last face is in the middle, whatever fits.
    """
    height, width = image_size
    columns = min(width, height * size[1] / size[0])
    room = np.array([columns, columns * size[0] / size[1]])
    largest_first = boxes[np.argsort(-box_area(boxes), kind="stable")]
    for count in range(len(boxes), 0, -1):
        for spare in (margin, 0.0):
            around = union_box(expand_box(largest_first[:count], 1 + 2 * spare))
            inside = np.clip(around, 0, [width, height, width, height])
            if (inside[2:] - inside[:2] <= room).all():
                return largest_frame(inside, image_size=image_size, size=size)
    return largest_frame(largest_first[0], image_size=image_size, size=size)


def largest_frame(box: np.ndarray, *, image_size: tuple[int, int], size: tuple[int, int]) -> Framing:
    """As much of the picture as has the proportion of `size`, with the face's box [4] in its middle."""
    height, width = image_size
    centre = np.tile((box[:2] + box[2:]) / 2, 2)
    everything = centre + np.array([-width, -height, width, height]) / 2
    return frame_inside(everything, image_size=image_size, size=size)


def covering_frame(keep: np.ndarray, *, image_size: tuple[int, int], size: tuple[int, int]) -> Framing:
    """As much of the picture as has the proportion of `size`, from its middle, moved only as far as needed to
    hold a box [4] such as the union of a face's; one that is too large is shown from its own middle.
    """
    height, width = image_size
    columns = min(width, height * size[1] / size[0])
    sides = np.array([max(round(columns), 1), max(round(columns * size[0] / size[1]), 1)])
    room = np.array([width, height]) - sides
    low, high = keep[:2], keep[2:]
    moved = np.clip(room / 2, np.ceil(high - sides), np.floor(np.maximum(low, np.ceil(high - sides))))
    start = np.where(high - low > sides, (low + high - sides) / 2, moved)
    left, top = np.clip(np.round(start), 0, room).astype(int)
    return Framing(int(left), int(top), int(sides[0]), int(sides[1]), size)


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
