"""Which input a message is about, so that it is said beside it."""

import re
from collections.abc import Iterable, Mapping

from portraitgen.runs.demo.given_files import GivenFiles
from portraitgen.training.inputs import Input

_LENGTH = ("video", "sound", "count", "size", "photos")
"""Kinds of inputs by how much what they say takes memory, those first that take most."""


def blamed(message: str, names: Iterable[str], files: GivenFiles) -> tuple[str | None, str]:
    """The input that a message is about, None where it names none, and what to say beside it.

    Messages begin with the name of the input, `size=[7,7]: …` or `prompt: …`, or name its file.

    Args:
        names: of the inputs.
    """
    said = files.readable(message)
    begin = re.match(r"([\w.]+)(=[^:]*)?: ", message)
    if begin and begin[1] in names:
        return begin[1], said[re.match(r"[\w.]+(=[^:]*)?: ", said).end() :]  # type: ignore[union-attr]
    found = [(message.find(path), name) for path, name in files.inputs.items() if path in message]
    return (min(found)[1] if found else None), said


def longest(inputs: Iterable[Input], values: Mapping[str, object]) -> str | None:
    """The input that decides how much memory a result takes, of those that were given."""
    given = [each for each in inputs if each.name in values]
    return next((each.name for kind in _LENGTH for each in given if each.kind == kind), None)
