"""Adapters as diffusers writes and reads them: what `load_lora_weights` of its pipelines takes.

A folder holds one adapter in `pytorch_lora_weights.safetensors`: tensors named
`<component>.<layer>.lora_A.weight`, and in the file's metadata peft's settings as JSON, their names led by
the component. Without metadata, alpha stands in scalars `<component>.<layer>.alpha`, or equals the rank
(diffusers.loaders, 0.42).
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from portraitgen.media.files import replacing

FILE_NAME = "pytorch_lora_weights.safetensors"
COMPONENTS = ("unet", "transformer")
_METADATA = "lora_adapter_metadata"
_OURS = re.compile(r"(?P<layer>.+)\.lora_(?P<matrix>[AB])\.(?P<adapter>\w+)\.weight")
_THEIRS = re.compile(r"(?P<layer>.+)\.(?:lora_(?P<matrix>[AB])|lora\.(?P<way>down|up))\.weight")
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter; `layers` has the two matrices by the layer's name, which begins with the component's."""

    rank: int
    alpha: float
    layers: dict[str, dict[str, Tensor]]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """In the names of weights files, as the adapter `name`."""
        return {
            f"{layer}.lora_{matrix}.{name}.weight": tensor
            for layer, matrices in self.layers.items()
            for matrix, tensor in matrices.items()
        }


def find_adapters(
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Mapping[str, Any]],
    *,
    components: Mapping[str, str] | None = None,
) -> dict[str, Adapter]:
    """The adapters among the tensors of a weights file, by name.

    Args:
        settings: what the file says of them: `rank` and `alpha` by name.
        components: part of the network → component of diffusers' pipeline; None: they have the same names.

    Raises:
        ValueError: a part is no component.
    """
    layers: dict[str, dict[str, dict[str, Tensor]]] = defaultdict(lambda: defaultdict(dict))
    for name, tensor in tensors.items():
        found = _OURS.fullmatch(name)
        if found:
            part, _, layer = found["layer"].partition(".")
            component = part if components is None else components.get(part, part)
            if component not in COMPONENTS:
                raise ValueError(
                    f"{name}: pipelines of diffusers have no component {component!r}, only "
                    f"{' or '.join(COMPONENTS)}"
                )
            layers[found["adapter"]][f"{component}.{layer}"][found["matrix"]] = tensor
    return {
        name: Adapter(
            int(settings[name]["rank"]), settings[name]["alpha"], {k: dict(v) for k, v in each.items()}
        )
        for name, each in layers.items()
    }


def write_adapter(folder: Path, adapter: Adapter) -> Path:
    """Write `adapter` into `folder`, and return the file."""
    from peft import LoraConfig

    metadata: dict[str, Any] = {}
    for component in sorted({layer.partition(".")[0] for layer in adapter.layers}):
        names = [n.partition(".")[2] for n in adapter.layers if n.partition(".")[0] == component]
        settings = LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # any number works
            target_modules="|".join(map(re.escape, names)),
        ).to_dict()
        metadata |= {f"{component}.{key}": value for key, value in settings.items()}
    tensors = {
        f"{layer}.lora_{matrix}.weight": tensor.contiguous()
        for layer, matrices in adapter.layers.items()
        for matrix, tensor in matrices.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(metadata, default=_as_json, indent=2, sort_keys=True)
    with replacing(folder / FILE_NAME) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", _METADATA: text})
    return folder / FILE_NAME


def read_adapter(source: Path) -> Adapter:
    """The adapter in a folder or file, of any version of diffusers.

    Raises:
        ValueError: no such file, or it holds something other than the two matrices of layers; or their ranks,
            or alphas, differ from layer to layer.
    """
    path = source / FILE_NAME if source.is_dir() else source
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a folder with {FILE_NAME}, or such a file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no whole safetensors file of diffusers: {error}") from error
    alphas = {name: float(tensors.pop(name)) for name in [*tensors] if name.endswith(".alpha")}
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    strange = []
    for name, tensor in tensors.items():
        found = _THEIRS.fullmatch(name)
        if found is None or name.partition(".")[0] not in COMPONENTS:
            strange.append(name)
        else:
            layers[found["layer"]][found["matrix"] or {"down": "A", "up": "B"}[found["way"]]] = tensor
    strange += [layer for layer, matrices in layers.items() if len(matrices) != 2]
    if strange or not layers:
        shown = ", ".join(strange[:_SHOWN]) or "no layers"
        raise ValueError(
            f"{path} holds more or less than pairs <component>.<layer>.lora_A.weight and lora_B (with the "
            f"components {' and '.join(COMPONENTS)}): {shown}"
        )
    ranks = {matrices["A"].shape[0] for matrices in layers.values()}
    rank = _one(f"{path}: ranks", ranks)
    stated = {metadata[f"{c}.lora_alpha"] for c in COMPONENTS if f"{c}.lora_alpha" in metadata}
    stated |= {alpha for c in COMPONENTS for alpha in metadata.get(f"{c}.alpha_pattern", {}).values()}
    alpha = _one(f"{path}: alphas", stated or set(alphas.values()) or {rank})
    return Adapter(int(rank), alpha, dict(layers))


def _one(what: str, values: Collection[float]) -> float:
    if len(values) > 1:
        raise ValueError(f"{what} {', '.join(map(str, sorted(values)))}: layers of one adapter must agree")
    return next(iter(values))


def _as_json(value: object) -> object:
    return sorted(value) if isinstance(value, set) else str(value)
