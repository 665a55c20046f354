"""The words of a command line, as people type them, in the grammar that Hydra reads.

Hydra's grammar takes letters of English, digits and a few signs; file names hold anything. So a value that
names a file, a folder or a pattern that is there, or an address, is quoted for it; `~` at its beginning is
the home folder. Agents of W&B sweeps write `--key=value`, the value as Python prints it. What still cannot be
read is answered with the words that can.
"""

import ast
import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from portraitgen.data.remote.address import PIPE, is_address

_OPTIONS = tuple(
    option
    for action in get_args_parser()._actions
    for option in action.option_strings
    if option.startswith("--")
)
_MAY_BE_LEFT_OUT = ("lr_scheduler", "logger", "callbacks", "losses")
"""Groups of which nothing need be chosen; Hydra takes no null for a group."""

_KEY = re.compile(r"[+~]{0,2}[\w./@][\w./@-]*")  # never an option of Hydra, such as --config-dir=…
_BRACES = re.compile(r"\{(\d+\.\.\d+|[^{}]*,[^{}]*)\}")


def readable_words(words: Sequence[str]) -> list[str]:
    """The words with those overrides changed that Hydra would not read as they are meant."""
    many = any(word in ("-m", "--multirun") for word in words)
    plain = [each for word in words for each in ([word] if many else _as_agents_mean(word))]
    return [_readable(_without_dashes(word)) for word in plain]


def override_words(words: Sequence[str]) -> list[str]:
    """Those that are overrides: neither options of Hydra (`-m`, `--cfg job`) nor their values."""
    known, _ = get_args_parser().parse_known_args(list(words))
    return list(known.overrides)


def config_folder(words: Sequence[str]) -> Path | None:
    """The folder of `--config-dir`, whose groups stand beside those of conf/; None where it is not given."""
    known, _ = get_args_parser().parse_known_args(list(words))
    return None if known.config_dir is None else Path(known.config_dir)


def unreadable(words: Sequence[str]) -> Iterator[str]:
    """For each override that Hydra's grammar has no place for, what to write in its place, for a shell."""
    for word in words:
        key, equals, value = word.partition("=")
        if (
            equals
            and _KEY.fullmatch(key)
            and not value.startswith(("[", "{"))
            and _parsed(word) is None
            and _value_of(quoted(key, value)) == value
        ):
            yield f"{key}: {value} has signs that must be quoted; write {_for_shell(quoted(key, value))}"


def quoted(key: str, value: str) -> str:
    """`key='value'`, whatever signs the value has."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    ending = len(escaped) - len(escaped.rstrip("\\"))
    # A `${` that is meant as it stands, also behind backslashes that are.
    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", f"{escaped}{escaped[len(escaped) - ending :]}")
    return f"{key}='{plain}'"


def _as_agents_mean(word: str) -> list[str]:
    """`--key=value` of an agent, whose value is one that Python prints: None, a dict with keys below the key,
    a string that Hydra would take for several values."""
    key, _, value = word.partition("=")
    plain = _without_dashes(word)
    if plain == word:
        return [word]
    try:
        meant = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        parsed = _parsed(plain)
        return [plain if parsed is not None and not parsed.is_sweep_override() else quoted(key[2:], value)]
    if meant is None:
        return [f"{key[2:]}=null"]
    if isinstance(meant, dict):
        return [each for name, below in meant.items() for each in _as_agents_mean(f"{key}.{name}={below}")]
    return [plain]


def _without_dashes(word: str) -> str:
    """`--key=value` as `key=value`, unless it is an option of Hydra."""
    key, equals, _ = word.partition("=")
    is_option = any(option.startswith(key) for option in _OPTIONS)
    return word[2:] if equals and word.startswith("--") and not is_option else word


def _readable(word: str) -> str:
    key, equals, value = word.partition("=")
    if value == "null" and key in _MAY_BE_LEFT_OUT:
        return f"~{key}"
    if not equals or not value or not _KEY.fullmatch(key):
        return word
    parsed = _parsed(word)
    if parsed is not None and not parsed.is_sweep_override() and parsed.value() == value and value[0] != "~":
        return word
    if parsed is not None and not parsed.is_sweep_override() and not isinstance(parsed.value(), str):
        return word  # a number, a list …
    if _is_there(value):
        return quoted(key, _expanded(value))
    if is_address(value) and (parsed is None or value.startswith(PIPE)):
        return quoted(key, value)  # patterns have braces, commands have anything
    if value.startswith("[") and value.endswith("]"):
        return f"{key}={_readable_list(value)}"
    return word


def _readable_list(value: str) -> str:
    """A list whose elements that are there are quoted."""
    elements = []
    for element in _split(value[1:-1]):
        if element.startswith("[") and element.endswith("]"):
            elements.append(_readable_list(element))
        elif _is_there(element) and isinstance(_value_of(f"a={element}"), str | None):
            elements.append(quoted("", _expanded(element))[1:])
        else:
            elements.append(element)
    return f"[{','.join(elements)}]"


def _split(text: str) -> list[str]:
    """At the commas that stand in no brackets."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign == "[") - (sign == "]")
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]


def _is_there(value: str) -> bool:
    """Whether a file, a folder, or anything that a pattern stands for has this name."""
    path = _expanded(value)
    try:
        if Path(path).exists():
            return True
        pattern = _BRACES.sub("*", path)
        return pattern.strip("*/") != "" and next(glob.iglob(pattern), None) is not None
    except (OSError, ValueError, re.error):  # too long for a name, say
        return False


def _expanded(value: str) -> str:
    return str(Path(value).expanduser()) if value.startswith("~") else value


def _parsed(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _value_of(word: str) -> Any:
    parsed = _parsed(word)
    return None if parsed is None or parsed.is_sweep_override() else parsed.value()


def _for_shell(word: str) -> str:
    """In double quotes, so that the single ones of Hydra stay readable."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", word) + '"'
