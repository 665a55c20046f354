"""Pictures as ConsisID's loader cuts them: square face crops, clips and masks at the size of the model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from portraitgen.data.formats.consisid.detections import Box
from portraitgen.data.sample import DataError
from portraitgen.media.geometry import expand_box, square_box

_MARGIN = 0.2


class Crop(NamedTuple):
    """A part of a picture: whole pixels, ends exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """This part of an image [H, W, ...]."""
        return image[self.top : self.bottom, self.left : self.right]


def face_crops(box: Box, *, image_size: tuple[int, int], compat: bool = False) -> tuple[Crop, Crop]:
    """A square around a box, with a margin of 20 % of its side on each side, and without.

    Args:
        box: corners in pixels; fractions are cut off.
        image_size: (height, width).
        compat: as ConsisID: where the wider square leaves the picture, it is cut at the border and then made
            square at its right or lower side, off centre and possibly through the face. By default it is
            shifted back into the picture.

    Returns:
        (with margin, without).

    Raises:
        DataError: the box is empty (compat: the crops are).
    """
    height, width = image_size
    x1, y1, x2, y2 = (int(box[name]) for name in ("x1", "y1", "x2", "y2"))
    side = max(x2 - x1, y2 - y1)
    if not compat:
        if side <= 0:
            raise DataError(f"box {dict(box)} is empty: there is nothing to crop")
        square = np.array(
            [(x1 + x2 - side) / 2, (y1 + y2 - side) / 2, (x1 + x2 + side) / 2, (y1 + y2 + side) / 2]
        )
        wide = expand_box(square, 1 + 2 * _MARGIN)
        inside = (square_box(part, image_size=image_size) for part in (wide, square))
        expanded, original = (Crop(*(int(value) for value in part)) for part in inside)
        return expanded, original
    left, right = _shifted_inside((x1 + x2) // 2 - side // 2, side, width)
    top, bottom = _shifted_inside((y1 + y2) // 2 - side // 2, side, height)
    margin = int(side * _MARGIN)
    wide_left, wide_top = max(0, left - margin), max(0, top - margin)
    wide_right, wide_bottom = min(width, right + margin), min(height, bottom + margin)
    shorter = min(wide_right - wide_left, wide_bottom - wide_top)
    expanded = Crop(wide_left, wide_top, wide_left + shorter, wide_top + shorter)
    return expanded, Crop(left, top, right, bottom)


def _shifted_inside(start: int, side: int, limit: int) -> tuple[int, int]:
    start = max(0, start)
    end = min(limit, start + side)
    return max(0, end - side), end


def crop_images(
    images: Sequence[np.ndarray], boxes: Sequence[Box], *, return_ori: bool = False, compat: bool = False
) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    """Face crops of images [H, W, 3], one for each box: with margin, and without if `return_ori` is set.

    Args:
        compat: as ConsisID: with `return_ori` only the first image is cropped. See also `face_crops`.
    """
    if compat and return_ori:
        images, boxes = images[:1], boxes[:1]
    expanded, original = [], []
    for image, box in zip(images, boxes, strict=True):
        wide, tight = face_crops(box, image_size=(image.shape[0], image.shape[1]), compat=compat)
        expanded.append(wide.of(image))
        original.append(tight.of(image))
    return expanded, original if return_ori else None


def short_resize_and_crop(frames: Tensor, *, size: tuple[int, int], keep: np.ndarray | None) -> Tensor:
    """Scale pictures until they just cover a size, and cut off what is over.

    Args:
        frames: uint8 [T, H, W, C]; masks too, with C = 1.
        size: (height, width) of the result.
        keep: box [4] xyxy in pixels of the frames, such as the union of the face boxes: the cut moves from
            the centre only as far as needed to hold it. None: the centre, as ConsisID does.

    Returns:
        uint8 [T, height, width, C].
    """
    target_height, target_width = size
    height, width = frames.shape[1:3]
    scaled = _covering_size(height, width, target_height, target_width)
    pictures = frames.permute(0, 3, 1, 2)
    if scaled != (height, width):
        # Filtered where it shrinks; the result is rounded, not cut, to whole levels.
        pictures = F.interpolate(pictures.float(), scaled, mode="bilinear", antialias=True)
        pictures = pictures.round().clamp(0, 255).to(torch.uint8)
    top, left = round((scaled[0] - target_height) / 2), round((scaled[1] - target_width) / 2)
    if keep is not None:
        zoom_y, zoom_x = scaled[0] / height, scaled[1] / width
        top = _cut_start(top, target_height, scaled[0], float(keep[1]) * zoom_y, float(keep[3]) * zoom_y)
        left = _cut_start(left, target_width, scaled[1], float(keep[0]) * zoom_x, float(keep[2]) * zoom_x)
    cut = pictures[:, :, top : top + target_height, left : left + target_width]
    return cut.permute(0, 2, 3, 1)


def _covering_size(height: int, width: int, target_height: int, target_width: int) -> tuple[int, int]:
    aspect = width / height
    fit_width = (int(target_width / aspect), target_width)
    fit_height = (target_height, int(target_height * aspect))
    if aspect > target_width / target_height:
        return fit_width if fit_width[0] >= target_height else fit_height
    return fit_height if fit_height[1] >= target_width else fit_width


def _cut_start(centred: int, length: int, total: int, low: float, high: float) -> int:
    if high - low > length:
        start = (low + high - length) / 2
    else:
        start = min(max(centred, high - length), low)
    # Outward, so that the first and the last pixel of what is kept are whole.
    start = np.floor(start) if start < centred else np.ceil(start)
    return int(np.clip(start, 0, total - length))
