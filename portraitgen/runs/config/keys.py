"""Dotted keys of configurations."""

from collections.abc import Mapping, Sequence
from typing import Any


def is_under(key: str, places: Sequence[str]) -> bool:
    """Whether a key is one of `places` or lies in one of them."""
    return any(key == place or key.startswith(f"{place}.") for place in places)


def leaves(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Values by dotted key; lists and empty mappings are values."""
    found: dict[str, Any] = {}
    for name, each in value.items():
        if isinstance(each, Mapping) and each:
            found |= leaves(each, f"{path}{name}.")
        else:
            found[f"{path}{name}"] = each
    return found
