"""What the settings inside a weights file claim, compared with stated limits and with the file's bytes.

A network of twenty thousand blocks, or a table of a billion noise levels, is a line of text: building it
would take hours or all memory. Networks are first built on the meta device, where only their number of parts
costs (`portraitgen.nn.limits`), and then compared with what the file and its bases can fill.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from portraitgen.nn.limits import limited_modules
from portraitgen.nn.pretrained import model_folder, weight_files
from portraitgen.runs.pretrained import pretrained_nodes

LIMITS = {
    "num_train_timesteps": 100_000,
    **dict.fromkeys(("num_steps", "num_inference_steps"), 100_000),
    **dict.fromkeys(("sample_size", "image_size", "size", "height", "width"), 16_384),
    **dict.fromkeys(("max_position_embeddings", "max_text_seq_length", "max_tokens"), 1_000_000),
    **dict.fromkeys(("vocab_size", "num_embeds_ada_norm"), 10_000_000),
}
"""Settings that tables are as long as → the most that a file may claim."""


def oversized(config: DictConfig | ListConfig, place: str = "") -> Iterator[str]:
    """A line for each setting of a weights file beyond LIMITS."""
    for key in range(len(config)) if isinstance(config, ListConfig) else list(config):
        here = f"{place}.{key}".lstrip(".")
        if OmegaConf.is_missing(config, key):
            continue
        value = config[key]
        if OmegaConf.is_config(value):
            yield from oversized(value, here)
        elif isinstance(value, int | float) and abs(value) > LIMITS.get(str(key), float("inf")):
            yield f"{here}: {value}, but at most {LIMITS[str(key)]} makes sense"


def require_fits_file(config: DictConfig, path: Path) -> None:
    """Make sure that a weights file and its bases can fill the network that it describes.

    A number takes a byte at least, so a network of more numbers than there are bytes is a false claim.

    Raises:
        ValueError: the network is larger.
    """
    network = config.get("network")
    if not isinstance(network, DictConfig) or "_target_" not in network:
        return
    numbers = sum(parameter.numel() for parameter in build_on_meta(network).parameters())
    there = path.stat().st_size + sum(_base_bytes(network))
    if numbers > there:
        raise ValueError(
            f"{path}: its settings describe a network of {numbers} numbers, and the file and its bases hold "
            f"{there} bytes: they do not belong together"
        )


def build_on_meta(node: Mapping[str, Any] | DictConfig) -> nn.Module:
    """The network that checked settings describe, without memory for its weights."""
    with torch.device("meta"), limited_modules():
        network: nn.Module = instantiate(node, _convert_="all")
    return network


def _base_bytes(network: Any) -> Iterator[int]:
    for here, node, _ in pretrained_nodes(network, "network"):
        source = node.get("path") or node.get("pretrained_model_name_or_path")
        if isinstance(source, str):
            folder = model_folder(source, node.get("subfolder"), section=here)
            yield from (file.stat().st_size for file in weight_files(folder, node.get("variant")))
