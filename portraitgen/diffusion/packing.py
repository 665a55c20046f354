"""Flux's tokens: 2x2 latents each, and where they lie in the picture (diffusers' `FluxPipeline`).

Codecs give plain latents `[B, C, h, w]`, in which noise, masks and losses are easily told; a network that
wants tokens packs them at its door.
"""

import torch
from torch import Tensor

_SIDE = 2


def pack_latents(latents: Tensor) -> Tensor:
    """Latents `[B, C, h, w]` → tokens `[B, h/2·w/2, 4C]`, row by row; channels vary slowest within a token.

    Raises:
        ValueError: h or w is odd.
    """
    batch, channels, height, width = latents.shape
    rows, columns = _grid(height, width)
    blocks = latents.reshape(batch, channels, rows, _SIDE, columns, _SIDE)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * _SIDE**2)


def unpack_latents(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverse of `pack_latents`, for latents of `size` (h, w)."""
    rows, columns = _grid(*size)
    channels = tokens.shape[-1] // _SIDE**2
    blocks = tokens.reshape(len(tokens), rows, columns, channels, _SIDE, _SIDE)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), channels, *size)


def token_positions(size: tuple[int, int], *, device: torch.device | str = "cpu") -> Tensor:
    """float32 `[h/2·w/2, 3]`: 0, row and column of each token of latents of `size`, as the rotary embedding
    of Flux takes them.
    """
    rows, columns = _grid(*size)
    row, column = torch.meshgrid(
        torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
    )
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3).float()


def _grid(height: int, width: int) -> tuple[int, int]:
    if height % _SIDE or width % _SIDE:
        raise ValueError(
            f"latents of {height}x{width} cannot be packed into tokens of {_SIDE}x{_SIDE}: give pictures"
            " whose sides are multiples of twice the codec's factor (16 pixels for Flux)"
        )
    return height // _SIDE, width // _SIDE
