"""Weights in the names of the published AniPortrait files: reading, loading into our network, giving back.

Published are ``denoising_unet.pth``, ``reference_unet.pth``, ``pose_guider.pth`` and ``motion_module.pth``.
Their names are ours but for the motion modules, where diffusers and AnimateDiff differ.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import LDM_UNET_KEY, convert_ldm_unet_checkpoint
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from torch import Tensor

from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.training.weights import load_into, load_weights

_PARTS = ("denoising_unet", "reference_unet", "pose_guider")
# Published name and ours, within motion modules.
_MOTION_NAMES = (
    (".attention_blocks.0.", ".attn1."),
    (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."),
    (".norms.1.", ".norm2."),
    (".ff_norm.", ".norm3."),
)
# Tables of sinusoidal positions are computed, not learned. Published: one an attention; ours: one a block.
_PUBLISHED_POSITIONS = ".pos_encoder.pe"
_POSITIONS = ".pos_embed.pe"


def from_published_name(name: str) -> str | None:
    """Our name, within its U-Net or pose guider, of a published tensor; None for a table of positions."""
    if ".motion_modules." not in name:
        return name
    if name.endswith(_PUBLISHED_POSITIONS):
        return None
    name = name.replace(".temporal_transformer.", ".")
    for published, ours in _MOTION_NAMES:
        name = name.replace(published, ours)
    return name


def to_published_names(name: str) -> tuple[str, ...]:
    """Published name of one of our tensors, within its U-Net or pose guider; two for a table of positions."""
    if ".motion_modules." not in name:
        return (name,)
    name = re.sub(r"(\.motion_modules\.\d+\.)", r"\1temporal_transformer.", name)
    if name.endswith(_POSITIONS):
        block = name.removesuffix(_POSITIONS)
        return tuple(f"{block}.attention_blocks.{index}{_PUBLISHED_POSITIONS}" for index in (0, 1))
    for published, ours in _MOTION_NAMES:
        name = name.replace(ours, published)
    return (name,)


def read_published(
    path: Path | str, *, hint: str = "the published ones are ZJYang/AniPortrait on the hub"
) -> dict[str, Tensor]:
    """Tensors of a published file, .safetensors or PyTorch's format, without running code from it.

    What trainers wrap around is taken off: a ``state_dict`` entry and the prefix ``module.``.

    Raises ``ValueError`` when there is no such file (with `hint`) or it does not hold plain tensors.
    """
    path = Path(path)
    content: Any
    if path.suffix == ".safetensors":
        content, _ = load_weights(path)
    elif not path.is_file():
        raise ValueError(f"no weights file {path}: {hint}")
    elif not _is_pytorch(path):
        raise ValueError(f"{path} is neither a .safetensors nor a PyTorch file")
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path} is damaged, or holds more than tensors: {error}") from error
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(isinstance(each, Tensor) for each in content.values()):
        raise ValueError(f"{path} holds more than tensors: a state dict is needed")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _is_pytorch(path: Path) -> bool:
    """Whether a file begins as torch.save writes them: a zip archive, or, before torch 1.6, a pickle."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def load_published(
    network: AniPortraitNetwork,
    *,
    denoising_unet: Mapping[str, Tensor],
    reference_unet: Mapping[str, Tensor],
    pose_guider: Mapping[str, Tensor],
    motion_module: Mapping[str, Tensor] | None = None,
) -> None:
    """Load tensors in published names: all that `network` has, and nothing else.

    Motion modules may stand in `denoising_unet` or in `motion_module`. Of the latter only the motion
    modules are read, so that AnimateDiff's checkpoints of whole U-Nets can be given.

    Raises ``ValueError`` when names or shapes differ, listing them; nothing is loaded then.
    """
    tensors = from_published(
        denoising_unet=denoising_unet,
        reference_unet=reference_unet,
        pose_guider=pose_guider,
        motion_module=motion_module,
    )
    load_into(network, tensors, source="the published weights", expect_missing=[f"*{_POSITIONS}"])


def from_published(
    *,
    denoising_unet: Mapping[str, Tensor],
    reference_unet: Mapping[str, Tensor],
    pose_guider: Mapping[str, Tensor],
    motion_module: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Tensors of the published files in our network's names, tables of positions left out."""
    files = (
        {**denoising_unet, **_motion_modules(motion_module or {})},
        reference_unet,
        pose_guider,
    )
    return {
        f"{part}.{ours}": value
        for part, file in zip(_PARTS, files, strict=True)
        for name, value in file.items()
        if (ours := from_published_name(name)) is not None
    }


def from_animatediff(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Motion modules of an AnimateDiff checkpoint (such as mm_sd_v15_v2.ckpt) in our network's names."""
    return {
        f"denoising_unet.{ours}": value
        for name, value in _motion_modules(tensors).items()
        if (ours := from_published_name(name)) is not None
    }


def from_stable_diffusion(unet: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A U-Net of Stable Diffusion, in diffusers' names or its own, as both U-Nets of our network.

    The reference U-Net ends before the output layers.
    """
    if any(name.startswith(LDM_UNET_KEY) for name in unet):
        unet = convert_ldm_unet_checkpoint(dict(unet), {"layers_per_block": 2})
    outputs = ("conv_norm_out.", "conv_out.")
    inner = {name: value for name, value in unet.items() if not name.startswith(outputs)}
    return {
        **{f"denoising_unet.{name}": value for name, value in unet.items()},
        # Tensors of their own: safetensors stores none that share memory.
        **{f"reference_unet.{name}": value.clone() for name, value in inner.items()},
    }


def position_tables(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tables of positions that a network with this `state` computes, on the CPU."""
    tables: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(_POSITIONS):
            _, length, width = value.shape
            tables[name] = SinusoidalPositionalEmbedding(width, max_seq_length=length).state_dict()["pe"]
    return tables


def _motion_modules(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if ".motion_modules." in name}


def published_state(network: AniPortraitNetwork) -> dict[str, dict[str, Tensor]]:
    """The network's tensors in published names, by file: see `to_published`."""
    return to_published(network.state_dict())


def to_published(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors in our network's names in published ones, by file.

    The files are "denoising_unet", "reference_unet", "pose_guider" and, with motion modules, "motion_module".
    """
    files: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, inner = name.partition(".")
        file = "motion_module" if ".motion_modules." in name else part
        files.setdefault(file, {}).update(dict.fromkeys(to_published_names(inner), value))
    return files
