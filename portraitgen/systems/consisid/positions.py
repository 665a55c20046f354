"""Rotary positions of CogVideoX's tokens, on the grid that it was trained on."""

from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor, device


def rotary_positions(
    frames: int, grid: tuple[int, int], *, base: tuple[int, int], head_dim: int, on: device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [frames · rows · columns, head_dim].

    A grid of another size than the base is shrunk into its middle, whatever its proportion, as in
    `prepare_rotary_positional_embeddings` of diffusers' CogVideoX and ConsisID.

    Args:
        frames: latents in time.
        grid: (rows, columns) of tokens.
        base: (rows, columns) that the weights were trained on.
        head_dim: of the attention.
        on: device of the result.
    """
    cosines, sines = get_3d_rotary_pos_embed(head_dim, _fitted(grid, base), grid, frames, device=on)
    return cosines, sines


def _fitted(grid: tuple[int, int], base: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corners of the largest box of the grid's proportion in the middle of the base."""
    (rows, columns), (base_rows, base_columns) = grid, base
    if rows / columns > base_rows / base_columns:
        size = (base_rows, round(base_rows / rows * columns))
    else:
        size = (round(base_columns / columns * rows), base_columns)
    top, left = round((base_rows - size[0]) / 2.0), round((base_columns - size[1]) / 2.0)
    return (top, left), (top + size[0], left + size[1])
