"""The command of generate.py that makes the same file as a job of the page, bit for bit."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from portraitgen.runs.config.words import quoted

_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)
"""Words that mean themselves, for a shell and for Hydra."""

_NO_TEXT = frozenset({"null", "true", "false", "on", "off", "yes", "no", "inf", "nan"})


def typed_command(
    weights: str, carried: Sequence[str], values: Mapping[str, Any], *, seed: int, out: str
) -> str:
    """The command in one line, for a shell.

    Args:
        weights: as the page was started with.
        carried: settings that the page was started with and that decide what is drawn.
        values: key → value as typed, of what was given.
        out: name of the file.
    """
    given = [override(name, value) for name, value in values.items()]
    words = [override("weights", weights), *carried, *given, f"seed={seed}", override("out", out)]
    return shlex.join(["python", "generate.py", *words])


def override(name: str, value: Any) -> str:
    """`name=value` as Hydra reads it back."""
    return f"{name}={_typed(value)}"


def _typed(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _NO_TEXT
        return value if plain else quoted("", value)[1:]
    return json.dumps(value)
