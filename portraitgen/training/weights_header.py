"""What stands in front of the tensors of a weights file, judged before anything is made of it.

safetensors itself makes sure that tensors lie within the file. It takes the last of two entries of one name,
and says nothing of the facts, which are JSON within JSON and may be anybody's.
"""

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_HEADER = 100_000_000
"""Bytes, as in safetensors itself."""

MAX_DEPTH = 50
MAX_VALUES = 200_000
MAX_SIDE = 16_384

_ADAPTER = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_header(path: Path) -> None:
    """Make sure that no tensor is named twice in a safetensors file.

    Raises:
        ValueError: one is, or the file ends before its header does.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise ValueError(f"{path} is not a whole safetensors file: copy or export it again")
        text = file.read(length)
    try:
        json.loads(text, object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}): copy or export it again"
        ) from error


def parse_facts(text: str, *, path: Path) -> dict[str, Any]:
    """The facts of a weights file from their JSON; {} of a file that portraitgen did not write.

    Raises:
        ValueError: they are no mapping, or one of them is not what it must be; names it.
    """
    if not text:
        return {}
    try:
        facts = json.loads(text, parse_constant=_refuse)
        if not isinstance(facts, dict):
            raise ValueError("they are no mapping")
        _require_small(facts)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata are damaged ({error}); export it again") from error
    problems = [f"{name} {problem}" for name, problem in _problems(facts)]
    if problems:
        raise ValueError(f"{path}: its metadata are damaged: {'; '.join(problems)}; export it again")
    return facts


def stated_size(facts: Mapping[str, Any], name: str, *, default: int | None = None) -> tuple[int, int]:
    """(height, width) of the examples that a system was trained on, as a weights file states it.

    Args:
        name: of the setting below `data.examples`: a side, or both.
        default: of both sides where the file does not say.

    Raises:
        ValueError: it does not say, or what it says is no size.
    """
    stated = ((facts.get("data") or {}).get("examples") or {}).get(name) or default
    sides = [stated, stated] if isinstance(stated, int) else stated
    if not isinstance(sides, list) or [type(side) for side in sides] != [int, int] or not _are_sides(sides):
        raise ValueError(
            f"the weights file does not say what size it was trained on: data.examples.{name} is {stated!r}; "
            "give size=[height,width]"
        )
    height, width = sides
    return height, width


def _are_sides(sides: list[int]) -> bool:
    return all(1 <= side <= MAX_SIDE for side in sides)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return found


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _require_small(facts: dict[str, Any]) -> None:
    """ValueError for facts that nest too deeply, or are too many: what is made of them grows with both."""
    level: list[Any] = [facts]
    count = 0
    for _ in range(MAX_DEPTH):
        count += len(level)
        if count > MAX_VALUES:
            raise ValueError(f"they are more than {MAX_VALUES} values")
        inner = [each for each in level if isinstance(each, dict | list)]
        level = [below for each in inner for below in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return
    raise ValueError(f"they are more than {MAX_DEPTH} levels deep")


def _problems(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    step = facts.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 1 << 53:
        yield "step", "must be a whole number"
    if not isinstance(facts.get("system"), str):
        yield "system", "must be a text"
    for name in ("config", "data", "bases", "lora"):
        if not isinstance(facts.get(name, {}), dict):
            yield name, "must be a mapping"
    for name in ("commit", "landmark_scheme", "converted_from"):
        if not isinstance(facts.get(name), str | None):
            yield name, "must be a text"
    shards = facts.get("shards", [])
    if not isinstance(shards, list) or not all(isinstance(each, str | None) for each in shards):
        yield "shards", "must be a list of digests"
    for part, base in _items(facts.get("bases")):
        files = base.get("files") if isinstance(base, dict) else None
        named = isinstance(files, dict) and all(isinstance(each, str) for each in files.values())
        if not named or not isinstance(base.get("source"), str):
            yield f"bases.{part}", "must say a source and files with their digests"
    for adapter, settings in _items(facts.get("lora")):
        if not _ADAPTER.fullmatch(adapter):
            yield f"lora.{adapter[:80]!r}", "must be called by letters, digits, - and _"
        alpha = settings.get("alpha") if isinstance(settings, dict) else None
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            yield f"lora.{adapter[:80]}.alpha", "must be a number"
    data = facts.get("data")
    span = data.get("train_span", [0.0, 1.0]) if isinstance(data, dict) else [0.0, 1.0]
    if not isinstance(span, list) or not all(isinstance(each, int | float) for each in span):
        yield "data.train_span", "must be two numbers"
    if isinstance(data, dict) and not isinstance(data.get("examples", {}), dict | None):
        yield "data.examples", "must be a mapping"


def _items(content: Any) -> list[tuple[str, Any]]:
    return [*content.items()] if isinstance(content, dict) else []
