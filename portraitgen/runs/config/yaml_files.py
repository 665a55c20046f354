"""YAML files of other people, looked through before anything is made of them.

Hydra reads every file of conf/ (and of `--config-dir`) with OmegaConf, which builds some objects for tags and
copies what an alias stands for: a few lines can so fill the memory. Here a file is first read as the events
of its parser, which build nothing.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult

from portraitgen.runs.config.check import ConfigError

CONF = Path(__file__).resolve().parents[3] / "conf"
"""Folder of the Hydra groups, at the root of the checkout."""

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
MAX_DEPTH = 50
_MAX_DIGITS = 300

# libyaml's parser is ten times as fast as Python's; a few builds of PyYAML lack it.
_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(path: Path) -> Any:
    """What a YAML file holds: mappings, lists, texts and numbers.

    Raises:
        ValueError: it is no such file, or passes the bounds of `check_yaml`.
    """
    text = read_yaml(path)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is no YAML: {_one_line(error)}") from error


def read_yaml(path: Path) -> str:
    """The text of a YAML file that `check_yaml` passes; ValueError if it does not."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path} is larger than {MAX_BYTES} bytes: no configuration is")
        text = path.read_text(encoding="utf-8")
        check_yaml(text, str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {_one_line(error)}") from error
    return text


def check_yaml(text: str, name: str) -> None:
    """Make sure that building what `text` says is safe and small.

    Args:
        name: of the file, for the message.

    Raises:
        ValueError: a tag, more than MAX_VALUES values once aliases are written out, deeper than MAX_DEPTH, a
            number of absurd length, or an alias that stands inside of itself.
        yaml.YAMLError: it is no YAML.
    """
    sizes: dict[str, int] = {}
    # For each open mapping or list: its anchor, and the values in it so far.
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=_PARSER):
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) is not None and event.tag != "!":
            raise ValueError(f"{name}, line {line}: YAML tags such as {event.tag} are not allowed")
        added = 0
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"{name}, line {line}: *{event.anchor} refers to itself or to nothing")
            added = sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            added = 1
            if event.anchor:
                sizes[event.anchor] = 1
            if not event.style and len(event.value) > _MAX_DIGITS and event.value[:1] in "+-.0123456789":
                raise ValueError(f"{name}, line {line}: a number of {len(event.value)} digits")
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            if len(open_nodes) > MAX_DEPTH:
                raise ValueError(f"{name}, line {line}: more than {MAX_DEPTH} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, added = open_nodes.pop()
            if anchor:
                sizes[anchor] = added
        above, count = open_nodes[-1]
        open_nodes[-1] = (above, count + added)
        if count + added > MAX_VALUES:
            raise ValueError(f"{name}, line {line}: more than {MAX_VALUES} values, aliases written out")


class CheckedFileSource(FileConfigSource):
    """Hydra's folder of YAML files; each file is looked through first."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        if path.is_file():
            try:
                read_yaml(path)
            except ValueError as error:
                raise ConfigError([str(error)]) from error
        return super().load_config(config_path)


# A job of a sweep registers Hydra's own once more, which is passed over where the name is the same.
CheckedFileSource.__name__ = FileConfigSource.__name__


def check_files_of_hydra() -> None:
    """From now on Hydra reads its folders through `CheckedFileSource`; may be called again."""
    Plugins.instance()  # which registers Hydra's own, and not beside another
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = CheckedFileSource


def _one_line(error: Exception) -> str:
    return " ".join(re.sub(r'\s+in "<unicode string>", ', ", ", str(error)).split())[:200]
