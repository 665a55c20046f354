"""Cut faces out by their boxes, differentiable with respect to the pictures, a batch at a time."""

import torch
from torch import Tensor

MARGIN = 1.2
"""Side of the square that is cut out, in longer sides of the box."""


def crop_boxes(images: Tensor, boxes: Tensor, *, side: int) -> tuple[Tensor, Tensor]:
    """Square crops around the boxes of faces, upright or not.

    The box, as far as it lies in the picture, becomes a square of 1.2 of its longer side around its centre,
    in whole pixels; what lies outside the picture is mirrored in its edge; bilinear without antialiasing. So
    does the identity loss of guangzhaoli/face (`arcface_loss.py:473-531`), one face at a time, which fails
    where more is missing than the crop holds.

    Args:
        images: [B, C, H, W].
        boxes: [B, 4] xyxy in pixels; NaN or empty where there is no face.
        side: height and width of the crops.

    Returns:
        Crops [B, C, side, side], differentiable in `images`, and bool [B], whether the row has a face. A row
        without one is black and passes no gradient.

    Raises:
        ValueError: shapes that do not belong together.
    """
    if images.ndim != 4 or boxes.shape != (len(images), 4):
        raise ValueError(
            f"need one box for each picture [B, C, H, W], got {list(boxes.shape)} for {list(images.shape)}"
        )
    size = torch.tensor(images.shape[:-3:-1], dtype=torch.float64, device=images.device)
    boxes = boxes.to(images.device, torch.float64)
    start, stop = boxes[:, :2].clamp(min=0), torch.minimum(boxes[:, 2:], size)
    square = (stop - start).amax(dim=1, keepdim=True) * MARGIN
    centre = (start + stop) / 2
    first, last = (centre - square / 2).trunc(), (centre + square / 2).trunc()
    # NaN compares as false.
    valid = ((stop > start) & (last > first)).all(dim=1)
    first, last = (
        torch.where(valid[:, None], corner, default) for corner, default in ((first, 0.0), (last, 1.0))
    )
    across, down = (
        _interpolation(first[:, axis], last[:, axis], side=side, length=images.shape[-1 - axis])
        for axis in (0, 1)
    )
    crops = down.to(images.dtype)[:, None] @ images @ across.to(images.dtype).mT[:, None]
    return torch.where(valid[:, None, None, None], crops, 0.0), valid


def _interpolation(first: Tensor, last: Tensor, *, side: int, length: int) -> Tensor:
    """What each pixel of a crop takes of each pixel of a picture along one axis: [B, side, length].

    Args:
        first, last: whole numbers [B]: the crop is pixels first to last − 1, also beyond the picture.
    """
    size = (last - first)[:, None]
    places = torch.arange(side, dtype=first.dtype, device=first.device)
    source = ((places + 0.5) * (size / side) - 0.5).clamp(min=0)
    low = source.floor()
    high = torch.minimum(low + 1, size - 1)
    share = source - low
    weights = first.new_zeros(len(first), side, length)
    for place, weight in ((low, 1 - share), (high, share)):
        weights.scatter_add_(2, _mirrored(place + first[:, None], length)[..., None], weight[..., None])
    return weights


def _mirrored(places: Tensor, length: int) -> Tensor:
    """Whole places anywhere → those in 0 … length − 1 that mirrors at the first and the last pixel show."""
    period = max(2 * (length - 1), 1)
    return (length - 1 - ((places.long() % period) - (length - 1)).abs()).clamp(min=0)
