"""Secrets stay out of what a run writes down: config.yaml, versions.json, reports, facts of weights files.

A password typed on the command line, or read from the environment by `${oc.env:…}`, is needed while the run
lasts, not in files that are kept and passed on. What looks like one, by the name of its key or of its
variable, is replaced by MASK, wherever it stands.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

MASK = "(hidden)"

_SECRET_NAME = re.compile(
    r"(^|[._-])(pass(word|wd|phrase)?|secret|token|credentials?|auth|bearer|(api|access|private|secret|auth)[_-]?key)$",
    re.IGNORECASE,
)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
_LEAST = 6
"""Characters of a value that is looked for elsewhere: shorter ones would be found in words."""


def looks_secret(name: str) -> bool:
    """Whether a key or a variable is called as secrets are: `wandb.api_key`, `HF_TOKEN`; not `max_tokens`."""
    return _SECRET_NAME.search(name) is not None


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration with MASK in the place of secrets, those of the environment among them."""
    known = {*_values(config), *_of_environment()}
    hidden: dict[str, Any] = _hidden(config, "", known)
    return hidden


def words_without_secrets(words: Sequence[str]) -> list[str]:
    """A command line with MASK for the values of `key=value` whose key looks secret, wherever they stand."""
    pairs = [word.partition("=") for word in words]
    known = {value for key, _, value in pairs if looks_secret(key.lstrip("+~"))}
    return [
        f"{key}={MASK}"
        if looks_secret(key.lstrip("+~")) and value
        else _replaced(word, {*known, *_of_environment()})
        for word, (key, _, value) in zip(words, pairs, strict=True)
    ]


def _hidden(value: Any, name: str, known: Iterable[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _hidden(each, str(key), known) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(each, name, known) for each in value]
    if looks_secret(name) and value not in (None, "", False, True):
        return MASK
    return _replaced(value, known) if isinstance(value, str) else value


def _replaced(text: str, known: Iterable[str]) -> str:
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= _LEAST:
            text = text.replace(secret, MASK)
    return _IN_ADDRESS.sub(MASK, text)


def _values(config: Any, name: str = "") -> Iterator[str]:
    if isinstance(config, Mapping):
        for key, each in config.items():
            yield from _values(each, str(key))
    elif isinstance(config, list | tuple):
        for each in config:
            yield from _values(each, name)
    elif isinstance(config, str) and looks_secret(name):
        yield config


def _of_environment() -> Iterator[str]:
    return (value for name, value in os.environ.items() if looks_secret(name))
