"""EVA02-CLIP's image tower (Sun et al. 2023, arXiv:2303.15389), with the inner layers that identity modules
read.

Names of tensors are those of the published files, less their "visual.".
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from portraitgen.media.public_weights import PublicFile, fill_strictly, read_public_tensors

# Mean and standard deviation of the pictures that CLIP was trained on (Radford et al. 2021), RGB in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_EPS = 1e-6

WEIGHTS = PublicFile(
    "EVA02_CLIP_L_336_psz14_s6B.pt",
    "huggingface.co/QuanSun/EVA-CLIP, or face_encoder/ of BestWishYsh/ConsisID-preview",
    "MIT",
)


class EvaClip(nn.Module):
    """Pictures → CLIP's projection, and what goes into some of the blocks; frozen, in evaluation mode.

    The defaults are EVA02-CLIP-L-14-336; 304,432,832 parameters.

    Args:
        image_size: side of the pictures, a multiple of `patch_size`.
        width, depth, head_dim, mlp_dim: of the transformer.
        projection_dim: E.
        trained_grid: patches a side for which the rotary frequencies were made; others are interpolated.
        inner: blocks, from 0 on, whose input is given: that is what the block before them makes.

    Attributes:
        num_tokens: of a picture, the class token counted.
    """

    def __init__(
        self,
        *,
        image_size: int = 336,
        patch_size: int = 14,
        width: int = 1024,
        depth: int = 24,
        head_dim: int = 64,
        mlp_dim: int = 2730,
        projection_dim: int = 768,
        trained_grid: int = 16,
        inner: tuple[int, ...] = (4, 8, 12, 16, 20),
    ) -> None:
        super().__init__()
        if image_size % patch_size or width % head_dim or head_dim % 4:
            raise ValueError(
                f"image_size={image_size} must be a multiple of patch_size={patch_size}, width={width} of"
                f" head_dim={head_dim}, and that of 4"
            )
        if not inner or any(not 0 < block < depth for block in inner):
            raise ValueError(f"inner={list(inner)}: give some of the blocks 1 to {depth - 1}")
        grid = image_size // patch_size
        self.image_size, self.width, self.projection_dim = image_size, width, projection_dim
        self.num_tokens, self.inner = grid**2 + 1, tuple(inner)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, self.num_tokens, width) * 0.02)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch_size, stride=patch_size)})
        self.blocks = nn.ModuleList(_Block(width, head_dim, mlp_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.head = nn.Linear(width, projection_dim)
        cos, sin = _rotary(grid, trained_grid, head_dim)
        self.register_buffer("_cos", cos, persistent=False)
        self.register_buffer("_sin", sin, persistent=False)
        self.register_buffer("_mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Of pictures [B, 3, S, S] in [0, 1] of `image_size`: projection [B, E] and inner layers [B, n, N,
        C].
        """
        return self.of_normalised((pictures - self._mean) / self._std)

    @torch.no_grad()
    def of_normalised(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The same of pictures that have CLIP's mean and deviation."""
        assert pictures.shape[-2:] == (self.image_size, self.image_size), pictures.shape
        tokens = self.patch_embed["proj"](pictures.to(self.cls_token.dtype)).flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.pos_embed
        inner = []
        for number, block in enumerate(self.blocks):
            if number in self.inner:
                inner.append(tokens)
            tokens = block(tokens, self._cos, self._sin)
        projection: Tensor = self.head(self.norm(tokens)[:, 0])
        return projection, torch.stack(inner, dim=1)

    def train(self, mode: bool = True) -> "EvaClip":
        """Stays in evaluation mode whatever the training loop asks for."""
        return super().train(False)

    _cos: Tensor
    _sin: Tensor
    _mean: Tensor
    _std: Tensor


class _Block(nn.Module):
    def __init__(self, width: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)
        self.attn = _Attention(width, head_dim)
        self.mlp = _SwiGLU(width, mlp_dim)

    def forward(self, tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), cos, sin)
        attended: Tensor = tokens + self.mlp(self.norm2(tokens))
        return attended


class _Attention(nn.Module):
    """Patches are turned by their place; the class token, which has none, is not. Keys have no bias."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.inner_attn_ln = nn.LayerNorm(width, eps=_EPS)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        def heads(values: Tensor) -> Tensor:
            return values.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        query = _turned(heads(self.q_proj(tokens) + self.q_bias), cos, sin)
        key = _turned(heads(self.k_proj(tokens)), cos, sin)
        seen = F.scaled_dot_product_attention(query, key, heads(self.v_proj(tokens) + self.v_bias))
        projected: Tensor = self.proj(self.inner_attn_ln(seen.transpose(1, 2).flatten(2)))
        return projected


class _SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.ffn_ln = nn.LayerNorm(hidden, eps=_EPS)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.w3(self.ffn_ln(F.silu(self.w1(tokens)) * self.w2(tokens)))
        return mixed


def _rotary(grid: int, trained_grid: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [grid², head_dim]: half of a head turns by the row, half by the column, in pairs."""
    frequencies = 10000 ** -(torch.arange(0, head_dim // 2, 2) / (head_dim // 2))
    places = torch.arange(grid) / grid * trained_grid
    angles = (places[:, None] * frequencies).repeat_interleave(2, dim=-1)
    rows, columns = angles[:, None].expand(-1, grid, -1), angles[None].expand(grid, -1, -1)
    both = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return both.cos(), both.sin()


def _turned(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[B, heads, 1 + N, D]: neighbouring channels of patches as points of a plane, turned."""
    patches = values[:, :, 1:]
    across = torch.stack([-patches[..., 1::2], patches[..., ::2]], dim=-1).flatten(-2)
    return torch.cat([values[:, :, :1], (patches * cos + across * sin).to(values.dtype)], dim=2)


TINY: Mapping[str, Any] = {
    "image_size": 28,
    "patch_size": 7,
    "width": 32,
    "depth": 6,
    "head_dim": 8,
    "mlp_dim": 48,
    "projection_dim": 24,
    "inner": (1, 2, 3, 4, 5),
}
"""What `untrained_eva_clip` is built with."""


def load_eva_clip(
    path: Path | str, *, dtype: str = "float32", network: Mapping[str, Any] | None = None
) -> EvaClip:
    """EVA02-CLIP-L-14-336 of a published file, or another; its text tower is left aside.

    Args:
        path: a file as `WEIGHTS`, or safetensors of the same names, with or without the "visual." before
            them.
        dtype: that it computes in, such as bfloat16 on a GPU.
        network: what `EvaClip` is built with; None for L-14-336.

    Raises:
        ValueError: no such file, or any other tensors than the network's; what to fetch.
    """
    precision = getattr(torch, dtype, None)
    if not isinstance(precision, torch.dtype):
        raise ValueError(f"dtype={dtype}: give float32, bfloat16 or float16")
    tensors = read_public_tensors(path, WEIGHTS)
    return fill_strictly(EvaClip(**(network or {})), image_tower(tensors), path=path, public=WEIGHTS).to(
        precision
    )


def image_tower(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of a whole CLIP that are of its image tower, by the names here; rotary tables are made, not
    read.
    """
    if any(name.startswith("visual.") for name in tensors):
        named = {name: value for name, value in tensors.items() if name.startswith("visual.")}
        tensors = {name.removeprefix("visual."): value for name, value in named.items()}
    return {name: value for name, value in tensors.items() if "rope.freqs_" not in name}


def untrained_eva_clip(*, seed: int = 0) -> EvaClip:
    """A tiny one whose random weights follow from `seed`: for tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EvaClip(**TINY)
