"""Secrets stay out of what a run writes down: config.yaml, versions.json, reports, facts of weights files.

A password typed on the command line, or read from the environment by `${oc.env:…}`, is needed while the run
lasts, not in files that are kept and passed on. What looks like one, by the name of its key or of its
variable, is replaced by MASK, wherever it stands. A token may also be a word or a vector of a network
(`context_token`, `num_id_token`): under such a name only a value that looks like a credential is a secret.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

MASK = "(hidden)"

_SECRET_NAME = re.compile(
    r"(^|[._-])(pass(word|wd|phrase)?|secret|credentials?|auth|(proxy-)?authorization|cookie|bearer|(api|access|private|secret|auth)[_-]?key)$",
    re.IGNORECASE,
)
_TOKEN_NAME = re.compile(r"(^|[._-])token$", re.IGNORECASE)
_CREDENTIAL = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[\w.~+/=:-]{16,}|[\w.~+/=:-]{32,}", re.ASCII)
"""One long word of letters and digits, without spaces and brackets: `hf_…`, a UUID, base64, a JWT."""
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
_IN_QUERY = re.compile(
    r"([?&](?:X-(?:Amz|Goog)-)?(?:Signature|Credential|Security-Token|sig|token)=)[^&\s'\"]+", re.IGNORECASE
)
"""What signs an address for whoever has it."""
_LEAST = 6
"""Characters of a value that is looked for elsewhere: shorter ones would be found in words."""


def is_secret(name: str, value: Any) -> bool:
    """Whether `value` is to be hidden: its key or variable is called as secrets are, `wandb.api_key`.

    Under the name of a token, `HF_TOKEN`, it must also look like a credential.
    """
    if value in (None, "", False, True):
        return False
    if _TOKEN_NAME.search(name):
        return isinstance(value, str) and _CREDENTIAL.fullmatch(value) is not None
    return _SECRET_NAME.search(name) is not None


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration with MASK in the place of secrets, those of the environment among them."""
    known = {*_values(config), *_of_environment()}
    hidden: dict[str, Any] = _hidden(config, "", known)
    return hidden


def words_without_secrets(words: Sequence[str]) -> list[str]:
    """A command line with MASK for the values of `key=value` whose key looks secret, wherever they stand."""
    pairs = [word.partition("=") for word in words]
    known = {_unquoted(value) for key, _, value in pairs if is_secret(key.lstrip("+~"), _unquoted(value))}
    return [
        f"{key}={MASK}"
        if is_secret(key.lstrip("+~"), _unquoted(value))
        else _replaced(word, {*known, *_of_environment()})
        for word, (key, _, value) in zip(words, pairs, strict=True)
    ]


def _unquoted(value: str) -> str:
    """A value of the command line as Hydra reads it: quotes that stand around it are not of it."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _hidden(value: Any, name: str, known: Iterable[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _hidden(each, str(key), known) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(each, name, known) for each in value]
    if is_secret(name, value):
        return MASK
    return _replaced(value, known) if isinstance(value, str) else value


def _replaced(text: str, known: Iterable[str]) -> str:
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= _LEAST:
            text = text.replace(secret, MASK)
    return _IN_QUERY.sub(rf"\g<1>{MASK}", _IN_ADDRESS.sub(MASK, text))


def _values(config: Any, name: str = "") -> Iterator[str]:
    if isinstance(config, Mapping):
        for key, each in config.items():
            yield from _values(each, str(key))
    elif isinstance(config, list | tuple):
        for each in config:
            yield from _values(each, name)
    elif isinstance(config, str) and is_secret(name, config):
        yield config


def _of_environment() -> Iterator[str]:
    return (value for name, value in os.environ.items() if is_secret(name, value))
