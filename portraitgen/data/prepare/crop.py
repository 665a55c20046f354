"""The square that a clip is cut out with: one for all its frames, so that only the head moves."""

from dataclasses import dataclass

import cv2
import numpy as np

from portraitgen.media.geometry import square_box, union_box


@dataclass(frozen=True, slots=True)
class Crop:
    """A square of `side` source pixels inside the frame, from (x, y) on, scaled to `size` pixels."""

    x: int
    y: int
    side: int
    size: int

    @property
    def affine(self) -> np.ndarray:
        """float32 [2, 3]: pixels of the crop -> pixels of the source; pixel i covers i to i + 1 in both."""
        scale = self.side / self.size
        return np.array([[scale, 0, self.x], [0, scale, self.y]], dtype=np.float32)

    def cut(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> uint8 [size, size, 3]; area means when it shrinks, cubic when it grows."""
        square = image[self.y : self.y + self.side, self.x : self.x + self.side]
        if self.side == self.size:
            return np.ascontiguousarray(square)
        how = cv2.INTER_AREA if self.side > self.size else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(square, (self.size, self.size), interpolation=how))

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 2] from pixels of the source to pixels of the crop, float32."""
        return ((points - (self.x, self.y)) * (self.size / self.side)).astype(np.float32)

    def boxes_to_crop(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [..., 4] from pixels of the source to pixels of the crop, float32."""
        return self.to_crop(boxes.reshape(*boxes.shape[:-1], 2, 2)).reshape(boxes.shape)


def choose_crop(boxes: np.ndarray, *, image_size: tuple[int, int], size: int, margin: float) -> Crop:
    """The square around all face boxes [N, 4] of one person, with `margin` face sizes to spare on each side.

    A face's size is its box's longer side, the median over the frames. The margin counts in face sizes and
    not in the union of the boxes, so that a moving head is not shown from further away than a still one.

    The square is shifted to lie inside the frame and is no larger than the frame's shorter side: pixels are
    never made up. Where the faces do not fit into that (somebody crosses a wide picture), it is centred on
    their union.

    Args:
        boxes: xyxy in pixels of the source.
        image_size: (height, width) of the source.
        size: side of the result in pixels.
    """
    face = float(np.median((boxes[:, 2:] - boxes[:, :2]).max(axis=1)))
    spare = margin * face * np.array([-1, -1, 1, 1])
    left, top, right, _ = square_box(union_box(boxes) + spare, image_size=image_size)
    return Crop(int(left), int(top), int(right - left), size)
