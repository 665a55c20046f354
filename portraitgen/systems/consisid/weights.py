"""ConsisID's weights as others have them: its published folder, and face modules with an adapter."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from portraitgen.nn.lora import plain_name
from portraitgen.nn.pretrained import weight_files
from portraitgen.systems.consisid.network import ConsisIDNetwork
from portraitgen.training.diffusers_lora import read_adapter
from portraitgen.training.published import Kind
from portraitgen.training.released import Released, ReleasedPart

ADAPTER = "identity"
_LOCAL, _ATTENTION = "local_facial_extractor", "perceiver_cross_attention"
_FACE_FILES = ("face_modules.safetensors", "face_modules.pt")
_SOURCE = "BestWishYsh/ConsisID-preview on the hub (CogVideoX licence)"
_FOLDER = "${paths.models}/ConsisID-preview"


def publish(network: nn.Module) -> dict[str, dict[str, Any]]:
    """The face modules as the official training writes them; adapters go to diffusers (convert.py kind=lora).

    Raises:
        ValueError: the network has none.
    """
    if not isinstance(network, ConsisIDNetwork) or network.extractor is None:
        raise ValueError(
            f"{type(network).__name__} has no face modules: give weights of the identity stage; without "
            "them a transformer is one of diffusers as it is"
        )
    state = {plain_name(name): value for name, value in network.transformer.state_dict().items()}
    local = {
        name.removeprefix(f"{_LOCAL}."): value for name, value in state.items() if name.startswith(_LOCAL)
    }
    blocks: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith(_ATTENTION):
            _, number, rest = name.split(".", 2)
            blocks.setdefault(int(number), {})[rest] = value
    return {"face_modules.pt": {_LOCAL: local, _ATTENTION: [blocks[index] for index in sorted(blocks)]}}


def read_face_modules(folder: Path) -> dict[str, Tensor]:
    """The tensors of face modules in a folder, in names of the transformer; no code in the file is run.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    path = next((folder / name for name in _FACE_FILES if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder} has no face modules: there should be a {' or '.join(_FACE_FILES)}")
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is damaged, or holds more than tensors: {error}") from error
    match content:
        case {"local_facial_extractor": dict() as local, "perceiver_cross_attention": list() as blocks}:
            parts = {_LOCAL: local} | {f"{_ATTENTION}.{index}": block for index, block in enumerate(blocks)}
        case _:
            raise ValueError(f"{path} holds no {_LOCAL} and list {_ATTENTION}")
    tensors = {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}
    if not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path} holds more than tensors")
    return tensors


def _read_published(source: str) -> dict[str, Tensor]:
    """Nothing: the folder is the base that the weights file names. It must hold a transformer, though."""
    folder = Path(source) / "transformer"
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"{source} has no transformer/config.json: fetch {_SOURCE}")
    settings = json.loads(config.read_text())
    if not settings.get("is_train_face"):
        raise ValueError(f"{config} is of a transformer without face modules: fetch {_SOURCE}")
    weight_files(folder)
    return {}


def _read_trained(source: str) -> dict[str, Tensor]:
    folder = Path(source)
    modules = {f"transformer.{name}": value.float() for name, value in read_face_modules(folder).items()}
    adapter = read_adapter(folder).tensors(ADAPTER)
    return modules | {name: value.float() for name, value in adapter.items()}


def _settings_of_adapter(source: str) -> tuple[str, ...]:
    """Rank, alpha and layers as the adapter itself states them."""
    adapter = read_adapter(Path(source))
    own: Mapping[str, Any] = {
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "targets": json.dumps([*adapter.layers]).replace('"', ""),
    }
    return tuple(f"model.network.lora.{ADAPTER}.{name}={value}" for name, value in own.items())


_PARTS = (
    f"model.network.base.path={_FOLDER}",
    f"model.codec.vae.pretrained_model_name_or_path={_FOLDER}",
    f"model.prompts.encoder.folder={_FOLDER}",
)
_GIVES = (f"transformer.{_LOCAL}.*", f"transformer.{_ATTENTION}.*", "*.lora_[AB].*")
KINDS = {
    "consisid": Kind(
        "the published folder ConsisID-preview, as it lies in paths.models",
        _read_published,
        "consisid/identity",
        settings=(*_PARTS, "model.network.lora=null"),
        gives=(),
        on_base=True,
    ),
    "consisid_lora": Kind(
        "a folder of the official training: face_modules.pt and pytorch_lora_weights.safetensors",
        _read_trained,
        "consisid/identity",
        settings=_PARTS,
        gives=_GIVES,
        on_base=True,
        adapt=_settings_of_adapter,
    ),
}
"""What convert.py reads, by name."""


def _part(fills: str, *files: str, licence: str, use: str = "", kind: str | None = None) -> ReleasedPart:
    hub = "BestWishYsh/ConsisID-preview"
    return ReleasedPart(fills, hub, licence, "ConsisID-preview", files, use=use, kind=kind)


_DIFFUSION = "diffusion_pytorch_model"
_PARSER, _LOOKS = "face_encoder/parsing_bisenet.pth", "face_encoder/EVA02_CLIP_L_336_psz14_s6B.pt"
_PACK = "face_encoder/models/antelopev2"
_PACK_FILES = ("1k3d68", "2d106det", "genderage", "glintr100", "scrfd_10g_bnkps")
RELEASED = Released(
    parts=(
        _part(
            "weights",
            "transformer/config.json",
            f"transformer/{_DIFFUSION}.safetensors.index.json",
            *(f"transformer/{_DIFFUSION}-0000{number}-of-00002.safetensors" for number in (1, 2)),
            licence="CogVideoX licence",
            kind="consisid",
        ),
        _part(
            "model.codec.vae.pretrained_model_name_or_path",
            "vae/config.json",
            f"vae/{_DIFFUSION}.safetensors",
            licence="CogVideoX licence",
        ),
        _part(
            "model.prompts.encoder.folder",
            "text_encoder/config.json",
            "text_encoder/model.safetensors.index.json",
            *(f"text_encoder/model-0000{number}-of-00002.safetensors" for number in (1, 2)),
            "tokenizer/spiece.model",
            "tokenizer/tokenizer_config.json",
            "tokenizer/special_tokens_map.json",
            licence="T5: Apache-2.0",
        ),
        _part("model.face_condition.looks.path", _LOOKS, licence="EVA-CLIP: MIT", use=_LOOKS),
        _part("model.face_condition.parser.weights", _PARSER, licence="BiSeNet: MIT", use=_PARSER),
        _part(
            "model.face_condition.recognizer.model_dir",
            *(f"{_PACK}/{name}.onnx" for name in _PACK_FILES),
            licence="antelopev2: non-commercial research only",
            use=_PACK,
        ),
    ),
)
"""What `generate.py weights=released:consisid` takes: all of it in one repository."""
