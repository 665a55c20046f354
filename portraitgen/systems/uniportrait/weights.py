"""Weights that convert.py makes into UniPortrait's, and UniPortrait's as the files that were published."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from portraitgen.systems.uniportrait.network import MULTI, SINGLE, UniPortraitNetwork
from portraitgen.systems.uniportrait.published import FACEID, IMAGE, ROUTER, from_published, to_published
from portraitgen.training.published import Kind
from portraitgen.training.released import SD_VAE, Released, ReleasedPart

_FILES = {
    FACEID: "uniportrait-faceid_sd15.bin",
    ROUTER: "uniportrait-router_sd15.bin",
    IMAGE: "ip-adapter_sd15.bin",
}
_SOURCES = {
    FACEID: "Junjie96/UniPortrait on the hub (Apache-2.0)",
    ROUTER: "Junjie96/UniPortrait on the hub (Apache-2.0)",
    IMAGE: "models/ of h94/IP-Adapter on the hub (Apache-2.0)",
}
_SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8, "block_out_channels": (320, 640, 1280, 1280)}
_LORA = {"rank": 128, "alpha": 128, "targets": ["unet.*.attn[12].to_[qkv]", "unet.*.attn[12].to_out.0"]}


def publish(network: nn.Module) -> dict[str, dict[str, Any]]:
    """The weights of UniPortrait's network as the published files, by name; each is a dictionary of sections.

    Raises:
        ValueError: it is another network.
    """
    if not isinstance(network, UniPortraitNetwork):
        raise ValueError(f"{type(network).__name__} was never published")
    return {_FILES[file]: dict(sections) for file, sections in to_published(network).items()}


def read_sections(path: Path, *, source: str) -> dict[str, dict[str, Tensor]]:
    """Section → name → tensor of one of the published files; no code in it is run.

    Raises:
        ValueError: no such file, or it holds something else; with what to fetch.
    """
    if not path.is_file():
        raise ValueError(f"no weights file {path}: fetch {path.name} of {source}")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is damaged, or holds more than tensors: {error}") from error
    sections = content.values() if isinstance(content, dict) else [None]
    if not all(isinstance(part, dict) and all(map(torch.is_tensor, part.values())) for part in sections):
        raise ValueError(f"{path} holds no sections of tensors: fetch {path.name} of {source}")
    return dict(content)


def _read(source: str, *, files: tuple[str, ...]) -> dict[str, Tensor]:
    read = {file: read_sections(Path(source) / _FILES[file], source=_SOURCES[file]) for file in files}
    with torch.device("meta"):
        network = UniPortraitNetwork(
            unet=_SD15,
            resampler={},
            router={},
            image_prompt={} if IMAGE in files else None,
            lora={SINGLE: _LORA, MULTI: _LORA},
        )
    return from_published(network, read)


def _read_uniportrait(source: str) -> dict[str, Tensor]:
    return _read(source, files=(FACEID, ROUTER))


def _read_with_image_prompt(source: str) -> dict[str, Tensor]:
    return _read(source, files=(FACEID, ROUTER, IMAGE))


_GIVES = ("id_resampler.*", "*.processor.*", "*.lora_[AB].*")
KINDS = {
    "uniportrait": Kind(
        f"the published folder of {_FILES[FACEID]} and {_FILES[ROUTER]}",
        _read_uniportrait,
        "uniportrait/stage2",
        gives=_GIVES,
        on_base=True,
    ),
    "uniportrait_ip": Kind(
        f"the same with IP-Adapter's {_FILES[IMAGE]}, for image prompts",
        _read_with_image_prompt,
        "uniportrait/stage2",
        settings=("model.network.image_prompt={}",),
        gives=(*_GIVES, "image_proj.*"),
        on_base=True,
    ),
}
"""What convert.py reads, by name."""

_HUB, _LICENCE, _FOLDER = "Junjie96/UniPortrait", "Apache-2.0", "UniPortrait"
_SD_HUB, _SD_LICENCE, _SD_FOLDER = (
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "CreativeML OpenRAIL-M",
    "stable-diffusion-v1-5",
)
_FACES = "glint360k_curricular_face_r101_backbone.bin"
RELEASED = Released(
    parts=(
        ReleasedPart(
            "weights", _HUB, _LICENCE, _FOLDER, (_FILES[FACEID], _FILES[ROUTER]), kind="uniportrait"
        ),
        ReleasedPart("model.features.path", _HUB, _LICENCE, _FOLDER, (_FACES,), use=_FACES),
        ReleasedPart(
            "model.features.clip.path",
            "h94/IP-Adapter",
            "Apache-2.0",
            "IP-Adapter",
            (
                "models/image_encoder/config.json",
                ("models/image_encoder/model.safetensors", "models/image_encoder/pytorch_model.bin"),
            ),
            use="models/image_encoder",
        ),
        SD_VAE,
        ReleasedPart(
            "model.network.base.path",
            _SD_HUB,
            _SD_LICENCE,
            _SD_FOLDER,
            (
                "unet/config.json",
                ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin"),
            ),
        ),
        ReleasedPart(
            "model.prompts.encoder.folder",
            _SD_HUB,
            _SD_LICENCE,
            _SD_FOLDER,
            (
                "text_encoder/config.json",
                ("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin"),
                "tokenizer/vocab.json",
                "tokenizer/merges.txt",
                "tokenizer/tokenizer_config.json",
                "tokenizer/special_tokens_map.json",
            ),
        ),
    ),
)
"""What `generate.py weights=released:uniportrait` takes."""
