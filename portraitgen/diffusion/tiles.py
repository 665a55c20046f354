"""Decode a picture in overlapping tiles, as diffusers' video VAEs do."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Tiles(NamedTuple):
    """How a picture is cut, each as (height, width).

    Attributes:
        size, stride: of tiles, in latents.
        blend: rows and columns of what is decoded over which a tile turns into the next one.
        keep: of what is decoded of a tile, from its upper left corner; the next one follows there.
        factor: rows of what is decoded to a row of latents.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    blend: tuple[int, int]
    keep: tuple[int, int]
    factor: int


def decode_tiles(decode: Callable[[Tensor, int, int], Tensor], z: Tensor, tiles: Tiles, vae: Any) -> Tensor:
    """Frames `[B, c, n, H, W]` of latents `[B, C, t, h, w]`.

    Args:
        decode: latents of a tile, its row and its column → its frames.
        vae: blends two tiles (`blend_v`, `blend_h`).
    """
    height, width = z.shape[-2:]
    above: list[Tensor] = []
    bands = []
    for row, top in enumerate(range(0, height, tiles.stride[0])):
        tile_row: list[Tensor] = []
        for column, left in enumerate(range(0, width, tiles.stride[1])):
            latents = z[..., top : top + tiles.size[0], left : left + tiles.size[1]]
            tile = decode(latents, row, column)
            if row:
                tile = vae.blend_v(above[column], tile, tiles.blend[0])
            if column:
                tile = vae.blend_h(tile_row[-1], tile, tiles.blend[1])
            tile_row.append(tile)
        bands.append(torch.cat([tile[..., : tiles.keep[0], : tiles.keep[1]] for tile in tile_row], dim=-1))
        above = tile_row
    picture = torch.cat(bands, dim=-2)
    return picture[..., : height * tiles.factor, : width * tiles.factor]
