"""Shards that a shell command prints (`data.shards=pipe:…`): it is the user's own, or it is not run."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from portraitgen.data.remote.address import PIPE
from portraitgen.runs.config.keys import leaves


def command_problems(config: DictConfig, words: Sequence[str], *, conf: Path) -> Iterator[str]:
    """A line for each command that neither the command line nor conf/local/default.yaml gives.

    Args:
        config: as composed.
        words: overrides of the command line.
        conf: the folder of our groups.
    """
    own = conf / "local" / "default.yaml"
    given = [*map(_as_meant, words), own.read_text() if own.is_file() else ""]
    content: Any = OmegaConf.to_container(config, resolve=False)
    for key, stated in leaves(content).items():
        if not isinstance(stated, str | list) or not _may_hold_command(stated):
            continue
        for command in _commands(config, key):
            if not any(command in each for each in given):
                yield (
                    f"{key}: a shell command (pipe:…) that a configuration file gives is not run; type it on"
                    " the command line, or write it in conf/local/default.yaml, if you want it"
                )


def _as_meant(word: str) -> str:
    """An override's value, without the quotes and signs by which Hydra takes it."""
    try:
        parsed = OverridesParser.create().parse_override(word)
    except HydraException:
        return word
    return word if parsed.is_sweep_override() else str(parsed.value())


def _may_hold_command(stated: str | list[Any]) -> bool:
    """Whether a value, interpolations and all, could be a command or a list with one."""
    texts = [stated] if isinstance(stated, str) else [each for each in stated if isinstance(each, str)]
    return any(PIPE in text or "${" in text for text in texts)


def _commands(config: DictConfig, key: str) -> Iterator[str]:
    try:
        value: Any = OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return  # not known yet, when it is looked at again, or damaged: said elsewhere
    for each in value if OmegaConf.is_list(value) else [value]:
        if isinstance(each, str) and each.strip().startswith(PIPE):
            yield each
