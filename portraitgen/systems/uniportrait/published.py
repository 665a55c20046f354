"""Weights in the names of the published UniPortrait files, both ways.

Published are ``uniportrait-faceid_sd15.bin`` (the resampler; one person's keys, values and adapter),
``uniportrait-router_sd15.bin`` (router and several people's adapter) and IP-Adapter's ``ip-adapter_sd15.bin``
(image prompts). They number the U-Net's attentions in the order of diffusers' ``attn_processors``: down, up,
middle.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from portraitgen.systems.uniportrait.network import MULTI, SINGLE, UniPortraitNetwork
from portraitgen.training.weights import load_into, plain_state, require_fit

Published = dict[str, dict[str, dict[str, Tensor]]]
"""File → section → name → tensor."""

FACEID, ROUTER, IMAGE = "faceid", "router", "ip_adapter"
_RESAMPLER = "id_resampler."
_IMAGE_PROJ = {"proj.": "image_proj.image_embeds.", "norm.": "image_proj.norm."}


def published_names(network: UniPortraitNetwork) -> dict[str, tuple[str, str, str]]:
    """Name of each of the network's tensors that is published → file, section and name there."""
    order = {
        f"unet.{name.removesuffix('.processor')}": index
        for index, name in enumerate(network.unet.attn_processors)
    }
    found = {}
    for name in plain_state(network):
        place = _place(name, order)
        if place is not None:
            found[name] = place
    return found


def from_published(network: UniPortraitNetwork, files: Published) -> dict[str, Tensor]:
    """Tensors of the files in our network's names.

    Args:
        network: built for what the files hold; may be on the meta device.
        files: any of the three, as they are read.

    Raises:
        ValueError: names or shapes differ from the network's, listing them.
    """
    ours = {place: name for name, place in published_names(network).items()}
    shapes = plain_state(network)
    tensors: dict[str, Tensor] = {}
    for file, sections in files.items():
        given = {
            f"{section}.{name}": value for section, part in sections.items() for name, value in part.items()
        }
        expected = {
            f"{section}.{name}": shapes[own] for (of, section, name), own in ours.items() if of == file
        }
        require_fit(expected, given, source=f"the published {file} weights", target="UniPortraitNetwork")
        for (of, section, name), own in ours.items():
            if of == file:
                tensors[own] = sections[section][name]
    return tensors


def load_published(network: UniPortraitNetwork, files: Published) -> None:
    """Load the tensors of published files; what they do not hold stays. Errors as `from_published`."""
    tensors = from_published(network, files)
    load_into(network, tensors, source="the published weights", expect_missing=["*"])


def to_published(network: UniPortraitNetwork, tensors: Mapping[str, Tensor] | None = None) -> Published:
    """The network's tensors (or these, in its names) as the published files have them."""
    if tensors is None:
        tensors = plain_state(network)
    files: Published = {}
    for name, (file, section, published) in published_names(network).items():
        if name in tensors:
            files.setdefault(file, {}).setdefault(section, {})[published] = tensors[name]
    return files


def _place(name: str, order: Mapping[str, int]) -> tuple[str, str, str] | None:
    """File, section and name there of one of our tensors; None if it is not published."""
    if name.startswith(_RESAMPLER):
        return FACEID, "faceid_proj", name.removeprefix(_RESAMPLER)
    for published, ours in _IMAGE_PROJ.items():
        if name.startswith(ours):
            return IMAGE, "image_proj", published + name.removeprefix(ours)
    layer, _, inner = name.partition(".processor.")
    if inner and layer in order:
        indexed = f"{order[layer]}.{inner}"
        if inner.startswith(("to_k_faceid", "to_v_faceid")):
            return FACEID, "faceid_adapter", indexed
        if inner.startswith(("to_k_ip", "to_v_ip")):
            return IMAGE, "ip_adapter", indexed
        return ROUTER, "faceid_adapter", indexed
    match = re.fullmatch(r"(.+)\.(to_q|to_k|to_v|to_out)(?:\.0)?\.lora_([AB])\.(\w+)\.weight", name)
    if match is None or match[1] not in order:
        return None
    direction = "down" if match[3] == "A" else "up"
    file = {SINGLE: FACEID, MULTI: ROUTER}[match[4]]
    return file, "faceid_adapter", f"{order[match[1]]}.{match[2]}_lora.{direction}.weight"
