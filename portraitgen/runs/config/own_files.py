"""In which file of `--config-dir` a setting stands that is wrong."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from portraitgen.runs.config.yaml_files import load_yaml

_PACKAGE = re.compile(r"\s*#\s*@package\s+(\S+)")


def named_with_files(
    problems: Sequence[str], folder: Path | None, choices: Mapping[str, str], overrides: Sequence[str]
) -> list[str]:
    """`problems`, each `key: what is wrong`, with the file before it where a single one there has the key.

    Args:
        problems: of the composed configuration.
        folder: that of `--config-dir`.
        choices: group → the option that was chosen of it.
        overrides: of the command line, which hides what a file says.
    """
    own = [] if folder is None else [*_own_files(folder, choices)]
    given = [word.lstrip("+~").partition("=")[0] for word in overrides]
    settings = [each for each in given if each not in choices]
    return [_named(problem, own, settings) for problem in problems]


def _own_files(folder: Path, choices: Mapping[str, str]) -> Iterator[tuple[Path, str, Any]]:
    """Of each chosen file where it stands in the configuration, "" for all of it, and what it says."""
    for group, option in choices.items():
        group, _, package = group.partition("@")
        path = folder / group / f"{option}.yaml"
        if path.is_file():
            stated = _PACKAGE.match(path.read_text())
            place = stated[1] if stated else package or group.replace("/", ".")
            yield path, "" if place == "_global_" else place, load_yaml(path)


def _named(problem: str, own: Sequence[tuple[Path, str, Any]], given: Sequence[str]) -> str:
    key = problem.partition(":")[0]
    if any(key == each or key.startswith((f"{each}.", f"{each}[")) for each in given):
        return problem
    parts = re.findall(r"[^.\[\]]+", key)
    found = [path for path, place, said in own if _says(said, place, parts)]
    return f"{found[0]}: {problem}" if len(found) == 1 else problem


def _says(said: Any, place: str, parts: Sequence[str]) -> bool:
    """Whether a file that stands at `place` gives the setting, or something in it."""
    above = place.split(".") if place else []
    if [*parts[: len(above)]] != above:
        return False
    for part in parts[len(above) :]:
        if isinstance(said, list) and part.isdecimal() and int(part) < len(said):
            said = said[int(part)]
        elif isinstance(said, dict) and part in said:
            said = said[part]
        else:
            return False
    return True
