"""The tiny official UniPortrait of the shared goldens, as our network."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from portraitgen.faces.recognition.iresnet import IResNet, from_tface
from portraitgen.faces.recognition.recognizer import FaceRecognizer
from portraitgen.nn.clip_image import ClipImageEncoder
from portraitgen.systems.uniportrait.features import FaceFeatures
from portraitgen.systems.uniportrait.network import UniPortraitNetwork
from portraitgen.systems.uniportrait.published import FACEID, IMAGE, ROUTER, Published, load_published

TARGETS = ["unet.*.attn[12].to_[qkv]", "unet.*.attn[12].to_out.0"]


@cache
def folder(shared: Path) -> Path:
    return shared / "golden/uniportrait_tiny"


@cache
def config(shared: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder(shared) / "config.json").read_text())
    return loaded


@cache
def tensors(shared: Path) -> dict[str, Tensor]:
    return load_file(folder(shared) / "golden.safetensors")


@cache
def weights(shared: Path) -> dict[str, dict[str, Tensor]]:
    """By part, as config.json of the goldens names them."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in load_file(folder(shared) / "weights.safetensors").items():
        part, _, inner = name.partition(".")
        parts.setdefault(part, {})[inner] = value
    return parts


def published(shared: Path) -> Published:
    """The tiny weights as the three published files hold them."""
    parts = weights(shared)
    files: Published = {
        FACEID: {"faceid_proj": parts["faceid_proj"], "faceid_adapter": {}},
        ROUTER: {"faceid_adapter": {}},
        IMAGE: {"image_proj": parts["image_proj"], "ip_adapter": {}},
    }
    for name, value in parts["faceid_adapter"].items():
        if "_ip." in name:
            files[IMAGE]["ip_adapter"][name] = value
        elif "_multi_id_lora." in name:
            files[ROUTER]["faceid_adapter"][name.replace("_multi_id_lora.", "_lora.")] = value
        elif "router." in name:
            files[ROUTER]["faceid_adapter"][name] = value
        else:
            files[FACEID]["faceid_adapter"][name] = value
    return files


def options(shared: Path) -> dict[str, Any]:
    """Arguments of `UniPortraitNetwork`."""
    facts = config(shared)
    given = facts["resampler"]
    lora = {"rank": facts["lora_rank"], "alpha": facts["lora_rank"], "targets": TARGETS}
    return {
        "unet": facts["unet_config"],
        "resampler": {
            "intrinsic_dim": given["intrinsic"],
            "structure_dim": given["structure"],
            "dim": given["dim"],
            "num_tokens": given["num_tokens"],
        },
        "router": {},
        "image_prompt": {"embedding_dim": 24, "num_tokens": facts["num_ip_tokens"]},
        "lora": {"single_id": lora, "multi_id": lora},
    }


def network(shared: Path) -> UniPortraitNetwork:
    made = UniPortraitNetwork(**options(shared)).eval().requires_grad_(False)
    own = {name.replace(".base_layer.", "."): value for name, value in made.unet.state_dict().items()}
    for name, value in weights(shared)["unet"].items():
        own[name].copy_(value)
    load_published(made, published(shared))
    return made


def features(shared: Path, key_seeded: Any) -> FaceFeatures:
    """With the IR_101 whose weights follow from their names, and the tiny CLIP."""
    names = json.loads((shared / "golden/faceloss_state_dict_keys.json").read_text())
    shapes = next(value for name, value in names.items() if "101" in name and "tface" in name.lower())
    face = IResNet(100, tface=True)
    face.load_state_dict({from_tface(name): value for name, value in key_seeded(shapes).items()})
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**config(shared)["clip_config"]))
    clip.load_state_dict(weights(shared)["clip"])
    return FaceFeatures(
        FaceRecognizer(face, name="curricularface_ir101", identity_threshold=0.35), ClipImageEncoder(clip)
    )
