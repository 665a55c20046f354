"""Hydra's errors of a composition in plain words: which file, which key, and what could be meant."""

import re
from collections.abc import Iterator
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from portraitgen.runs.config.targets import did_you_mean
from portraitgen.runs.config.yaml_files import load_yaml

_PLACE = re.compile(r"In '?([^':]+)'?: ")
_NOT_CHOSEN = re.compile(r"Could not override '([^']+)'\. No match in the defaults list")
_NOISE = ("object_type=", "reference_type=", "full_key:", "To append to your config", "See https:")


def in_plain_words(error: Exception, *, experiment: str | None = None, folder: Path | None = None) -> str:
    """What is wrong, and what one could have meant; Hydra must be initialized.

    Args:
        error: what a composition raised.
        experiment: the one that was chosen.
        folder: that of `--config-dir`; a mistake in one of its files is told with the file.
    """
    placed = _PLACE.match(str(error))
    file = "" if placed is None else _named(placed[1], folder)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        missing = str(error.missing_cfg_file)
        return f"{file or _which_asks_for(missing, experiment, folder)}{_missing(missing)}"
    if match := _NOT_CHOSEN.search(str(error)):
        nothing = f"{match[1]}: nothing is chosen of it so far: leave out the word override"
        return f"{file}{_missing_group(match[1].partition('@')[0]) or nothing}"
    cause = error.__cause__ or error.__context__
    if file and isinstance(cause, OmegaConfBaseException) and cause.full_key:
        why = str(cause.msg or cause).splitlines()[0]
        if isinstance(cause, ConfigKeyError):
            siblings = [*map(str, cause.parent_node)] if isinstance(cause.parent_node, DictConfig) else []
            why = f"no such key{did_you_mean(str(cause.key), siblings)}"
        return f"{file}{cause.full_key}: {why}"
    said = f"{file}{str(error)[placed.end() :]}" if file and placed else str(error)
    lines = [line.rstrip() for line in said.splitlines()]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines += str(error.__cause__).splitlines()
    return "\n    ".join(line for line in lines if line.strip() and not line.strip().startswith(_NOISE))


def _named(config: str, folder: Path | None) -> str:
    """`file: ` of a configuration such as experiment/mine, where it lies in `folder`."""
    path = None if folder is None else folder / f"{config}.yaml"
    return f"{path}: " if path is not None and path.is_file() else ""


def _which_asks_for(option: str, experiment: str | None, folder: Path | None) -> str:
    """`file: ` of the chosen experiment if its defaults ask for an option such as model/aniportrait."""
    file = _named(f"experiment/{experiment}", folder)
    if not file or folder is None:
        return ""
    for entry in load_yaml(folder / f"experiment/{experiment}.yaml").get("defaults", []):
        for group, chosen in entry.items() if isinstance(entry, dict) else ():
            if f"{group.split()[-1].strip('/').partition('@')[0]}/{chosen}" == option:
                return file
    return ""


def _missing(config: str) -> str:
    """What is not there of group/option, and what could be meant."""
    group, _, option = config.rpartition("/")
    options = sorted(_options(group))
    there_is_none = f"{group}: there is no {option!r}{did_you_mean(option, options)}"
    return _missing_group(group) or f"{there_is_none}; known: {', '.join(options)}"


def _missing_group(group: str) -> str | None:
    """Of a group in a group the first that is not there, and what could be meant; None: all are."""
    loader, above = GlobalHydra.instance().config_loader(), ""
    for name in group.split("/"):
        groups = loader.list_groups(above)
        above = f"{above}/{name}".strip("/")
        if name not in groups:
            return f"{above}: no such group{did_you_mean(name, groups)}"
    return None


def _options(group: str) -> Iterator[str]:
    """Those of a group and of the groups in it, in every folder that Hydra reads."""
    loader = GlobalHydra.instance().config_loader()
    yield from loader.get_group_options(group, ObjectType.CONFIG)
    for inner in loader.get_group_options(group, ObjectType.GROUP):
        yield from (f"{inner}/{option}" for option in _options(f"{group}/{inner}"))
