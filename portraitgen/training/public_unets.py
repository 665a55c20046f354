"""U-Nets and motion modules that others published: Stable Diffusion's and AnimateDiff's, in our names."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import LDM_UNET_KEY, convert_ldm_unet_checkpoint
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from torch import Tensor

from portraitgen.training.weights import load_weights

# Published name and ours, within motion modules.
MOTION_NAMES = (
    (".attention_blocks.0.", ".attn1."),
    (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."),
    (".norms.1.", ".norm2."),
    (".ff_norm.", ".norm3."),
)
# Tables of sinusoidal positions are computed, not learned. Published: one an attention; ours: one a block.
PUBLISHED_POSITIONS = ".pos_encoder.pe"
POSITIONS = ".pos_embed.pe"


def from_published_name(name: str) -> str | None:
    """Our name, within its U-Net or pose guider, of a published tensor; None for a table of positions."""
    if ".motion_modules." not in name:
        return name
    if name.endswith(PUBLISHED_POSITIONS):
        return None
    name = name.replace(".temporal_transformer.", ".")
    for published, ours in MOTION_NAMES:
        name = name.replace(published, ours)
    return name


_WRAPPERS = ("state_dict", "model", "module")


def read_tensors(path: Path | str, *, hint: str) -> dict[str, Tensor]:
    """Tensors of a published file, .safetensors or PyTorch's format, without running code from it.

    What trainers wrap around is taken off: an entry ``state_dict``, ``model`` or ``module``, and the prefix
    ``module.``. Of a folder all weights files in it are read, as sharded models are stored.

    Raises ``ValueError`` when there is no such file (with `hint`), when it does not hold plain tensors, or
    when one of them is not finite.
    """
    path = Path(path)
    content: Any
    if path.is_dir():
        return _read_folder(path, hint=hint)
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
    if isinstance(content, dict) and {"loops", "pytorch-lightning_version"} & content.keys():
        raise ValueError(
            f"{path} is a training checkpoint, to resume from: give the weights of the run"
            " (weights/*.safetensors)"
        )
    if isinstance(content, dict):
        content = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), dict)), content)
    if not isinstance(content, dict) or not all(isinstance(each, Tensor) for each in content.values()):
        raise ValueError(f"{path} holds more than tensors: a state dict is needed")
    broken = [
        name for name, each in content.items() if each.is_floating_point() and not each.isfinite().all()
    ]
    if broken:
        raise ValueError(f"{path}: {broken[0]} has values that are no numbers ({len(broken)} such tensors)")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _read_folder(folder: Path, *, hint: str) -> dict[str, Tensor]:
    """All weights files of one kind in a folder, .safetensors before others; none may hold a tensor twice."""
    for pattern in ("*.safetensors", "*.bin", "*.pth", "*.pt"):
        found: dict[str, Tensor] = {}
        for file in sorted(folder.glob(pattern)):
            tensors = read_tensors(file, hint=hint)
            if twice := found.keys() & tensors.keys():
                raise ValueError(
                    f"{folder}: {min(twice)} is in {file.name} and in another file; give one file"
                )
            found |= tensors
        if found:
            return found
    raise ValueError(f"{folder} holds no weights file (.safetensors, .bin, .pth): {hint}")


def _is_pytorch(path: Path) -> bool:
    """Whether a file begins as torch.save writes them: a zip archive, or, before torch 1.6, a pickle."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


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
        if name.endswith(POSITIONS):
            _, length, width = value.shape
            tables[name] = SinusoidalPositionalEmbedding(width, max_seq_length=length).state_dict()["pe"]
    return tables


def read_stable_diffusion(source: str) -> dict[str, Tensor]:
    """Both U-Nets of a file, or of a folder as diffusers writes it: of the pipeline or of the U-Net."""
    path = Path(source)
    if path.is_dir():
        names = [f"diffusion_pytorch_model.{kind}" for kind in ("safetensors", "fp16.safetensors", "bin")]
        places = [path / part / name for part in ("unet", ".") for name in names]
        found = [place for place in places if place.is_file()]
        if not found:
            raise ValueError(f"source={source}: no unet/diffusion_pytorch_model.safetensors in this folder")
        path = found[0]
    hint = "Stable Diffusion 1.5 is stable-diffusion-v1-5/stable-diffusion-v1-5 on the hub (OpenRAIL-M)"
    return from_stable_diffusion(read_tensors(path, hint=hint))
