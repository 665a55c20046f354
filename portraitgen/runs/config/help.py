"""What `--help` says of a command's settings: its configuration file with its comments, and its groups."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf

from portraitgen.runs.config.schema import CONF

_SHARED = ("experiment", "paths")
"""Groups of all commands, most of whose options fit only one of them: not listed."""


def settings_help(config_name: str) -> str:
    """Examples, settings and groups of conf/<config_name>.yaml, in the words of the file.

    Hydra's own help lists all groups of the house, and drops the comments.
    """
    head, body, groups = _parts(config_name)
    lines = [*head, "", *body]
    if groups:
        lines += ["", "Groups, each a folder of conf/ (group=option; its settings: group.key=value):"]
        for group, chosen in groups.items():
            lines += [f"  {group}: {'none' if chosen is None else chosen}", *_options(group)]
    lines += ["", "What a command line comes to, with the settings of its groups: … --cfg job"]
    return "\n".join(lines).strip() + "\n"


def experiments_help(words: Sequence[str] = ()) -> str:
    """The experiments of train.py, each with the first line of its comments."""
    lines = ["Experiments (experiment=…), each a file of conf/experiment:"]
    for path in sorted((CONF / "experiment").glob("*/*.yaml")):
        text = path.read_text()
        if "max_steps" in text or "override /stage" in text:
            said = next(
                (line for line in text.splitlines() if line.startswith("# ") and "@package" not in line), ""
            )
            lines.append(f"  {f'{path.parent.name}/{path.stem}':<36} {said.lstrip('# ')}".rstrip())
    return "\n".join(lines)


def _parts(config_name: str) -> tuple[list[str], list[str], dict[str, str | None]]:
    """Comments on top, settings, and the groups with what is chosen of each; those of bases come first."""
    path = CONF / f"{config_name}.yaml"
    sections = _sections(path.read_text().splitlines())
    body = [line for name, lines in sections if name not in ("", "defaults", "hydra") for line in lines]
    head = [
        line.removeprefix("#").removeprefix(" ") for name, lines in sections if not name for line in lines
    ]
    below: list[str] = []
    groups: dict[str, str | None] = {}
    loaded: Any = OmegaConf.load(path)
    defaults: Any = OmegaConf.to_container(loaded["defaults"])
    for entry in defaults:
        if isinstance(entry, dict):
            (group, chosen), *_ = entry.items()
            if " " not in group:  # neither `override …` nor `optional …`
                groups[group] = chosen
        elif (CONF / f"{entry}.yaml").is_file():
            _, inherited, more = _parts(entry)
            below += inherited
            groups |= more
    return head, [*below, *body], groups


def _sections(lines: list[str]) -> list[tuple[str, list[str]]]:
    """(top-level key, its lines); comments before the first key have no name."""
    sections: list[tuple[str, list[str]]] = [("", [])]
    for line in lines:
        key = re.match(r"([a-z_]+):", line)
        if key:
            sections.append((key.group(1), []))
        if line.strip():
            sections[-1][1].append(line)
    return sections


def _options(group: str) -> Iterator[str]:
    """A line for each option of a group, with the first comment of its file."""
    if group in _SHARED:
        return
    folder = CONF / group
    for path in sorted(folder.rglob("*.yaml")):
        comments = (line for line in path.read_text().splitlines() if not line.startswith("# @package"))
        said = next(comments, "")
        name = path.relative_to(folder).with_suffix("").as_posix()
        yield f"    {name:<20} {said.lstrip('# ') if said.startswith('#') else ''}".rstrip()
