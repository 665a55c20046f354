"""Adapters of our weights files in diffusers' format, and diffusers' as weights files of ours."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from portraitgen.media.files import inside, writable_folder
from portraitgen.runs.config.systems import system_of
from portraitgen.training.diffusers_lora import find_adapters, read_adapter, write_adapter
from portraitgen.training.weights import load_weights, plain_state, require_fit, save_weights

log = logging.getLogger(__name__)

UNNAMED = "default"
"""Name of an adapter that comes without one, as peft calls it."""


def export_adapters(source: Path, out: Path, *, components: Mapping[str, str] | None = None) -> None:
    """Write the adapters of a weights file: one into the folder `out`, several into folders of their names.

    Args:
        components: part of the network → component of diffusers' pipeline; None: they have the same names.

    Raises:
        ValueError: the file holds no adapters, or some that no pipeline of diffusers takes.
    """
    tensors, facts = load_weights(source)
    settings = facts.get("lora", {})
    adapters = find_adapters(tensors, settings, components=components) if settings else {}
    if not adapters:
        raise ValueError(f"{source} holds no adapters: give weights of a run whose network has network.lora")
    for name, adapter in adapters.items():
        folder = writable_folder(out if len(adapters) == 1 else inside(out, name))
        file = write_adapter(folder, adapter)
        log.info("%s: %d layers, rank %d, alpha %g", file, len(adapter.layers), adapter.rank, adapter.alpha)
    others = len(tensors) - sum(2 * len(adapter.layers) for adapter in adapters.values())
    if others:
        log.warning("%s also holds %d tensors that are no adapters; they are left out", source, others)


def import_adapter(
    source: Path,
    out: Path,
    *,
    model: Mapping[str, Any] | None,
    build: Callable[[Mapping[str, Any]], nn.Module],
    provenance: Mapping[str, Any],
) -> None:
    """Write an adapter in diffusers' format as a weights file.

    Args:
        model: settings of the model whose network gets it, where `network.lora` holds at most one adapter;
            the file then builds that network, with the adapter's own rank, alpha and layers. None: the file
            is a part that a stage starts from.
        build: what makes the network that settings describe, on the meta device.
        provenance: more facts for the file.

    Raises:
        ValueError: the source cannot be read, or the network has no such layers, or several adapters.
    """
    adapter = read_adapter(source)
    name, config = UNNAMED, dict(model or {})
    if model is not None:
        given = model["network"].get("lora") or {}
        if len(given) > 1:
            raise ValueError(f"settings: the network has the adapters {', '.join(given)}, but this is one")
        name = next(iter(given), UNNAMED)
        own = {"rank": adapter.rank, "alpha": adapter.alpha, "targets": [*adapter.layers]}
        config["network"] = {**model["network"], "lora": {name: {**given.get(name, {}), **own}}}
        network = build(config["network"])
        layers = {n: tensor for n, tensor in plain_state(network).items() if ".lora_" in n}
        require_fit(layers, adapter.tensors(name), source=source, target=type(network).__name__)
    save_weights(
        out,
        adapter.tensors(name),
        config=config,
        step=0,
        system=system_of(str(config.get("_target_"))) or "",
        provenance={
            **provenance,
            "converted_from": str(source),
            "lora": {name: {"rank": adapter.rank, "alpha": adapter.alpha}},
        },
    )
    log.info("%s: adapter %r of rank %d, alpha %g", out, name, adapter.rank, adapter.alpha)
