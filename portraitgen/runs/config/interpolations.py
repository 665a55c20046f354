"""How large a configuration becomes once its interpolations `${…}` are resolved, known before they are.

A dozen lines that each name the line before twice double with each line: forty of them fill any memory.
"""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

MAX_RESOLVED = 1_000_000
"""Characters of all texts, and values beside them, once resolved."""

_REFERENCE = re.compile(r"\$\{([^${}:]*)\}")


def check_interpolations(config: DictConfig) -> Iterator[str]:
    """A line for each top-level key that would grow beyond MAX_RESOLVED."""
    content: Any = OmegaConf.to_container(config, resolve=False)
    sizes: dict[tuple[str, ...], int] = {}
    for name in content:
        try:
            if _size(content, (str(name),), sizes) > MAX_RESOLVED:
                yield f"{name}: its interpolations resolve to more than {MAX_RESOLVED} characters"
        except RecursionError:
            yield f"{name}: its interpolations lead from one to the next for hundreds of times"
            return


def _size(content: Any, place: tuple[str, ...], sizes: dict[tuple[str, ...], int]) -> int:
    """Values and characters at `place`, everything resolved; what names itself counts once."""
    if place in sizes:
        return sizes[place]
    sizes[place] = 0  # a reference to what is being measured: OmegaConf reports the loop
    value = _at(content, place)
    total = 1
    if isinstance(value, dict):
        total += sum(_size(content, (*place, str(key)), sizes) for key in value)
    elif isinstance(value, list):
        total += sum(_size(content, (*place, str(index)), sizes) for index in range(len(value)))
    elif isinstance(value, str):
        total += len(value)
        for reference in _REFERENCE.findall(value):
            total += _size(content, _target(reference, place), sizes)
    sizes[place] = total
    return total


def _target(reference: str, place: tuple[str, ...]) -> tuple[str, ...]:
    """Where `${reference}` at `place` leads: from the top, or with leading dots from where it stands."""
    dots = len(reference) - len(reference.lstrip("."))
    words = tuple(part for part in re.split(r"[.\[\]]+", reference.strip(".")) if part)
    return (*place[: len(place) - dots], *words) if dots else words


def _at(content: Any, place: tuple[str, ...]) -> Any:
    for part in place:
        if isinstance(content, dict):
            content = next((value for key, value in content.items() if str(key) == part), None)
        elif isinstance(content, list) and part.isdigit() and int(part) < len(content):
            content = content[int(part)]
        else:
            return None
    return content
