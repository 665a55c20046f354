"""Which places of a coarse grid belong to whose face: boxes of people → one-hot maps."""

from typing import Literal, get_args

import torch
from torch import Tensor

Cover = Literal["area", "centre"]
Overlap = Literal["nearest", "shared"]


def face_regions(
    boxes: Tensor,
    people: Tensor,
    picture: tuple[int, int],
    grid: tuple[int, int],
    *,
    cover: Cover = "area",
    overlap: Overlap = "nearest",
) -> Tensor:
    """Maps float32 [B, P, h, w] of ones where a person's face is.

    A face in the picture always has a cell, the one with its centre, however small it is; if several are
    there, the nearest centre has it.

    Args:
        boxes: [B, P, 4] xyxy in pixels of the picture; anything where nobody is.
        people: bool [B, P], which places hold a person.
        picture: (height, width) in pixels.
        grid: (h, w), cells of equal size over the picture.
        cover: "area": cells of which a box covers more than a half; "centre": cells whose centre it covers.
        overlap: "nearest": of several faces a cell belongs to the one whose centre is nearest, measured in
            halves of its box, so that the maps are one-hot; "shared": to all of them.

    Raises:
        ValueError: unknown `cover` or `overlap`.
    """
    for name, value, known in (("cover", cover, Cover), ("overlap", overlap, Overlap)):
        if value not in get_args(known):
            raise ValueError(f"losses: {name} is {value!r}: use one of {', '.join(get_args(known))}")
    # In cells. NaN of places without a person would spread through the comparisons below.
    cells = boxes.new_tensor([grid[1] / picture[1], grid[0] / picture[0]]).repeat(2)
    boxes = torch.where(people[..., None], boxes * cells, 0.0)
    covered = [
        _covered(boxes[..., axis], boxes[..., axis + 2], size, cover)
        for axis, size in ((1, grid[0]), (0, grid[1]))
    ]
    share = covered[0][..., :, None] * covered[1][..., None, :]
    inside = share > 0.5 if cover == "area" else share > 0

    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = ((boxes[..., 2:] - boxes[..., :2]) / 2).clamp(min=1e-6)
    own = [
        (torch.arange(size, device=boxes.device) == centre[..., axis, None].floor())
        for axis, size in ((1, grid[0]), (0, grid[1]))
    ]
    inside |= own[0][..., :, None] & own[1][..., None, :]
    inside &= people[..., None, None]
    if overlap == "shared":
        return inside.float()
    down, across = (
        ((torch.arange(size, device=boxes.device) + 0.5 - centre[..., axis, None]) / half[..., axis, None])
        for axis, size in ((1, grid[0]), (0, grid[1]))
    )
    distance = down.square()[..., :, None] + across.square()[..., None, :]
    # A cell with the centre of a face smaller than it is that face's, however far it seems in such halves.
    distance = torch.where(own[0][..., :, None] & own[1][..., None, :], distance.clamp(max=1e-3), distance)
    nearest = distance.masked_fill(~inside, torch.inf).argmin(dim=1, keepdim=True)
    first = torch.arange(boxes.shape[1], device=boxes.device).view(1, -1, 1, 1)
    return (inside & (first == nearest)).float()


def _covered(start: Tensor, stop: Tensor, size: int, cover: Cover) -> Tensor:
    """[B, P, size]: how much of each cell along one axis lies between start and stop."""
    cell = torch.arange(size, device=start.device, dtype=start.dtype)
    start, stop = start[..., None], stop[..., None]
    if cover == "centre":
        return ((cell + 0.5 >= start) & (cell + 0.5 < stop)).to(start.dtype)
    return (torch.minimum(stop, cell + 1) - torch.maximum(start, cell)).clamp(min=0)
