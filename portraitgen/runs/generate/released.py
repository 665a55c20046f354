"""`weights=released:<system>`: published files that lie in `paths.models`, converted once, fill the settings.

Nothing is fetched from here: what is missing is said once, all of it, with the commands that fetch it. Which
files a system needs stands in its `weights.py` (`training.released`).
"""

import copy
import json
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from portraitgen.media.digests import remembered_digest
from portraitgen.media.one_writer import one_writer
from portraitgen.runs.config.schema import CONF
from portraitgen.runs.config.systems import all_systems, system_file
from portraitgen.runs.config.targets import did_you_mean
from portraitgen.runs.convert import all_kinds, settings_of, write_converted
from portraitgen.runs.generate.given import OF_A_ROW
from portraitgen.runs.generate.requests_file import read_requests
from portraitgen.training.published import Kind
from portraitgen.training.released import Released, ReleasedPart
from portraitgen.training.weights import load_facts

log = logging.getLogger(__name__)

PREFIX = "released:"
DEFAULT_FACES = "dlib"
CONVERTED = "converted"
"""Folder of `paths.models` with the weights files that were made of published ones."""


def with_released(config: DictConfig) -> DictConfig:
    """The configuration of generate.py with the files of `weights=released:<system>` in its settings.

    What was given on the command line stays. Other weights than released ones change nothing.

    Raises:
        ValueError: there are no such weights, or files are missing: names all of them and how to get them.
    """
    if not str(config.weights).startswith(PREFIX):
        return config
    system = str(config.weights).removeprefix(PREFIX)
    released = _released(system)
    config = copy.deepcopy(config)
    models = str(config.paths.models)
    _choose_faces(config, released)
    needed = [part for part in released.parts if _is_needed(part, config, system)]
    missing = [(part, lost) for part in needed if (lost := [*_missing(part, models)])]
    if missing:
        raise ValueError(_message(str(config.weights), missing, models))
    for part in needed:
        if part.kind is None:
            OmegaConf.update(config, part.fills, str(_place(part, models)), force_add=True)
    if any(part.fills.startswith("faces.") for part in needed):
        instantiate(config.faces)  # says which package is missing, before anything is converted
    for part in needed:
        if part.kind is not None:
            kind = all_kinds(system)[system][part.kind]
            OmegaConf.update(
                config, part.fills, _converted(part, kind, system=system, models=models), force_add=True
            )
    return config


def _released(system: str) -> Released:
    modules = {name: system_file(name, "weights") for name in all_systems()}
    known = {name: module.RELEASED for name, module in modules.items() if hasattr(module, "RELEASED")}
    if system not in known:
        raise ValueError(
            f"weights={PREFIX}{system}: there are {', '.join(PREFIX + name for name in known)}"
            f"{did_you_mean(system, known)}"
        )
    found: Released = known[system]
    return found


def _choose_faces(config: DictConfig, released: Released) -> None:
    """The face backend of the weights' training data in the place of the default; a chosen one stays."""
    if released.faces is not None and config.faces == OmegaConf.load(CONF / f"faces/{DEFAULT_FACES}.yaml"):
        log.info("faces=%s: as the released weights know them", released.faces)
        config.faces = OmegaConf.load(CONF / f"faces/{released.faces}.yaml")


def _is_needed(part: ReleasedPart, config: DictConfig, system: str) -> bool:
    if part.fills != "weights" and OmegaConf.select(config, part.fills) is not None:
        return False
    # The keys of the node, since `in` takes a setting that must be given (???) for none.
    if part.fills.startswith("faces.") and part.fills.removeprefix("faces.") not in [*config.faces.keys()]:
        return False  # a setting of another face backend
    if any(OmegaConf.select(config, key) is not None for key in part.unless):
        return False
    return part.needed_for is None or _is_given(part.needed_for, config, system)


def _is_given(key: str, config: DictConfig, system: str) -> bool:
    """Whether an input is given, on the command line or in every row of the requests."""
    if config[key] is not None or config.requests is None:
        return config[key] is not None
    module = system_file(system, "inputs")
    known = {each.name: each for each in module.Inputs.inputs}
    return all(key in row for _, row in read_requests(config.requests, known, OF_A_ROW))


def _files(part: ReleasedPart, models: str) -> Iterator[tuple[str, Path | None]]:
    """Each file of a part by the name that is fetched, and where it is; None: it is missing."""
    folder = Path(models, part.folder).expanduser()
    for names in part.files:
        several = (names,) if isinstance(names, str) else names
        yield several[0], next((folder / name for name in several if (folder / name).is_file()), None)


def _missing(part: ReleasedPart, models: str) -> Iterator[str]:
    yield from (name for name, path in _files(part, models) if path is None)


def _place(part: ReleasedPart, models: str) -> Path:
    return Path(models, part.folder, part.use)


def _message(weights: str, missing: list[tuple[ReleasedPart, list[str]]], models: str) -> str:
    """Every missing file, with its source, licence and command; files of one source go with one command."""
    sources: dict[tuple[str, str], list[tuple[ReleasedPart, list[str]]]] = {}
    for part, names in missing:
        sources.setdefault((part.source, part.folder), []).append((part, names))
    count = sum(len(names) for _, names in missing)
    lines = [f"weights={weights}: {count} file(s) are missing. Fetch them, then start again:"]
    for (source, below), parts in sources.items():
        names = [name for _, lost in parts for name in lost]
        folder = Path(models, below)
        where = source if source.startswith("https://") else f"{source} on the Hugging Face hub"
        licences = "; ".join(dict.fromkeys(part.licence for part, _ in parts))
        lines += ["", f"{where} ({licences})"]
        lines += [f"  {folder / name}" for name in names]
        if source.startswith("https://"):
            words = [["curl", "-L", "--create-dirs", "-o", str(folder / name), source] for name in names]
        else:
            words = [["hf", "download", source, *names, "--local-dir", str(folder)]]
        lines += [shlex.join(each) for each in words]
    settings = [part.fills for part, _ in missing if part.kind is None]
    if settings:
        given = " ".join(f"{'+' * name.startswith('model.')}{name}=…" for name in settings)
        lines += ["", f"What lies elsewhere can be given instead: {given}"]
    return "\n".join(lines)


def _converted(part: ReleasedPart, kind: Kind, *, system: str, models: str) -> str:
    """The weights file of a published part: the one that was made before, where nothing has changed since.

    It states the digests of the files that it was made of, and the settings of its network.
    """
    source = str(_place(part, models).expanduser())
    out = Path(models, CONVERTED, system, f"{part.kind}.safetensors").expanduser()
    # Of a network on a base the file holds nothing of the base, and states its digests itself.
    files = {name: path for name, path in _files(part, models) if path is not None and kind.gives}
    digests = {name: remembered_digest(path) for name, path in files.items()}
    settings = settings_of(kind, source, models=models)
    model = json.loads(json.dumps(settings["model"]))

    def is_there() -> bool:
        if not out.is_file():
            return False
        try:
            facts: dict[str, Any] = load_facts(out)
        except ValueError:  # damaged: it is made again
            return False
        return facts.get("converted_files") == digests and facts.get("config") == model

    if not is_there():
        with one_writer(out.parent):
            if not is_there():
                log.info("%s: converting %s, once", out, source)
                write_converted(
                    out, kind, source, settings, system=system, facts={"converted_files": digests}
                )
    return str(out)
