"""Weights that others published as weights files of ours, and ours in the published layout.

This knows no system: what can be read, and how weights are published, stands in each system's `weights.py`.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import save_file

from portraitgen.media.files import replacing, writable_folder
from portraitgen.nn.lora import lora_settings
from portraitgen.runs.claims import build_on_meta
from portraitgen.runs.config.check import ConfigError, check_config, find_problems
from portraitgen.runs.config.schema import CONF
from portraitgen.runs.config.systems import all_systems, system_file, system_of
from portraitgen.runs.config.targets import did_you_mean
from portraitgen.runs.convert_lora import export_adapters, import_adapter
from portraitgen.runs.system import build, checked_settings, describe_system
from portraitgen.runs.train.rundir import describe_commit
from portraitgen.training.published import Kind
from portraitgen.training.weights import load_weights, matches, require_fit, save_weights

log = logging.getLogger(__name__)

PUBLISHED, LORA = "published", "lora"


def convert(config: DictConfig) -> None:
    """Write `config.out` with the weights of `config.source`.

    Raises:
        ValueError: a setting, or a source that cannot be read or does not hold exactly what it must.
    """
    check_config(config)
    if config.kind == PUBLISHED:
        out = writable_folder(Path(config.out))
        _publish(Path(config.source), out, system=config.system, models=config.paths.models)
        return
    if config.kind == LORA:
        _convert_lora(config)
        return
    system, kind = _kind(config.kind, config.system)
    if Path(config.out).suffix != ".safetensors":
        raise ValueError(f"out={config.out}: weights files end in .safetensors")
    below = next((parent for parent in Path(config.out).parents if parent.is_file()), None)
    if below is not None:
        raise ValueError(
            f"out={config.out}: {below} is a file, nothing can lie below it; choose another folder"
        )
    settings = settings_of(kind, config.source, config.settings, models=config.paths.models)
    write_converted(Path(config.out), kind, config.source, settings, system=system)


def settings_of(kind: Kind, source: str, more: Sequence[str] = (), *, models: str) -> dict[str, Any]:
    """The resolved settings of the experiment whose network a source fills.

    Args:
        more: overrides of the experiment beside those of the kind.
        models: the folder `paths.models`.

    Raises:
        ValueError: the overrides, or a source that states its settings and cannot be read.
    """
    own = () if kind.adapt is None else kind.adapt(source)
    return _experiment(kind.experiment, [*kind.settings, *own, *more], models=models)


def write_converted(
    out: Path,
    kind: Kind,
    source: str,
    settings: Mapping[str, Any],
    *,
    system: str,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write the weights file `out` of what others published.

    Args:
        settings: as `settings_of` has them.
        facts: more that the file is to state of how it came about.

    Raises:
        ValueError: the source cannot be read, or does not hold exactly what the network needs.
    """
    network = build_on_meta(settings["model"]["network"])
    tensors = kind.read(source)
    own = {name: value for name, value in network.state_dict().items() if matches(name, kind.gives)}
    if kind.computed is not None:
        tensors |= kind.computed(own)
    require_fit(
        own,
        tensors,
        source=source,
        target=f"{type(network).__name__} of experiment={kind.experiment}",
    )
    stated = {
        "data": settings["data"],
        "shards": [],
        "converted_from": source,
        **(facts or {}),
        **describe_commit(),
    }
    if adapters := lora_settings(network):
        stated["lora"] = adapters
    if kind.landmark_scheme is not None:
        stated["landmark_scheme"] = kind.landmark_scheme
    save_weights(
        out,
        tensors,
        config=settings["model"] if kind.is_whole else {},
        step=0,
        system=system,
        provenance=stated,
    )
    log.info("%s: %d tensors of %s", out, len(tensors), source)


def _convert_lora(config: DictConfig) -> None:
    """From a folder of diffusers to a weights file, or the other way: `out` says which."""
    source, out = Path(config.source), Path(config.out)
    if out.suffix != ".safetensors":
        export_adapters(source, out)
        return
    facts: dict[str, Any] = describe_commit()
    model = None
    if config.into is not None:
        settings = _experiment(config.into, [*config.settings], models=config.paths.models)
        model = settings["model"]
        facts = {"data": settings["data"], "shards": [], **facts}
    import_adapter(source, out, model=model, build=build_on_meta, provenance=facts)


def all_kinds(system: str | None = None) -> dict[str, dict[str, Kind]]:
    """Name of each system, or of one → what convert.py reads for it, by name.

    Raises:
        ValueError: no such system.
    """
    names = [*all_systems()] if system is None else [system]
    modules = {name: system_file(name, "weights") for name in names}
    return {name: module.KINDS for name, module in modules.items() if module is not None}


def describe_kinds(words: Sequence[str] = ()) -> str:
    """What convert.py reads and writes, for --help."""
    lines = []
    for system, kinds in all_kinds().items():
        lines.append(f"system={system}")
        lines += [f"  kind={name:17} {kind.meaning}" for name, kind in kinds.items()]
    lines += [
        "any system",
        f"  kind={PUBLISHED:17} a weights file of ours, in the published layout",
        f"  kind={LORA:17} adapters of a weights file as a folder of diffusers, or (out=….safetensors) back",
    ]
    return "\n".join(lines)


def _kind(name: str, system: str | None) -> tuple[str, Kind]:
    """The system that has a kind of this name, and the kind.

    Raises:
        ValueError: there is none, or more than one.
    """
    known = all_kinds(system)
    found = [(owner, kinds[name]) for owner, kinds in known.items() if name in kinds]
    if len(found) > 1:
        owners = " or ".join(f"system={owner}" for owner, _ in found)
        raise ValueError(f"kind={name}: several systems have it; say {owners}")
    if not found:
        names = [*dict.fromkeys(each for kinds in known.values() for each in kinds), PUBLISHED, LORA]
        whose = "" if system is None else f" of system={system}"
        raise ValueError(f"kind={name}: there are{whose} {', '.join(names)}{did_you_mean(name, names)}")
    return found[0]


def _experiment(name: str, overrides: list[str], *, models: str) -> dict[str, Any]:
    """The resolved settings of train.py's experiment `name`."""
    given = [f"experiment={name}", "data.shards=none", f"paths.models={models}", *overrides]
    # Within a command Hydra has been told already where the configuration lies.
    known = GlobalHydra.instance().is_initialized()
    with nullcontext() if known else initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = compose("train", given)
        except (HydraException, OmegaConfBaseException) as error:
            reason = " ".join(str(error).split("\n")[:2])
            raise ValueError(f"settings, for train.py experiment={name}: {reason}") from error
    problems = find_problems(config)
    if problems:
        raise ConfigError(problems)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    return settings


def _publish(source: Path, out: Path, *, system: str | None, models: str) -> None:
    """Write a weights file of ours as files in the published layout."""
    tensors, facts = load_weights(source)
    config = checked_settings(source, facts, models=models)
    owner = system_of(str(config.get("_target_")))
    module = None if owner is None else system_file(owner, "weights")
    if system not in (None, owner):
        raise ValueError(f"system={system}: {source} holds weights of {owner}; leave it out")
    if module is None:
        raise ValueError(f"{source}: {owner or config.get('_target_')} has no published layout (weights.py)")
    if facts.get("bases") or facts.get("lora"):  # the file lacks what the bases give
        described = describe_system(source, changes={}, models=models)
        network = build(described, device=torch.device("cpu")).network
    else:
        network = build_on_meta(config.network)
        require_fit(network.state_dict(), tensors, source=source, target=type(network).__name__)
        network.load_state_dict(tensors, assign=True)
        if any(buffer.is_meta for buffer in network.buffers()):  # tables that are computed, and in no file
            network = instantiate(config.network, _convert_="all")
            network.load_state_dict(tensors)
    for file, state in module.publish(network).items():
        with replacing(out / file) as temporary:
            if file.endswith(".safetensors"):
                save_file({name: value.contiguous() for name, value in state.items()}, temporary)
            else:
                torch.save(state, temporary)
        log.info("%s: %d tensors", out / file, len(state))
