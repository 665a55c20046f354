"""Files that a visitor gave: under which names they lie while a job reads them, and in messages."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

_LONGEST = 100
"""Bytes of a name that are kept: file systems count them, not letters."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file as it came in.

    Attributes:
        path: where it lies.
        name: that it had on the visitor's machine.
    """

    path: Path
    name: str

    @property
    def file_name(self) -> str:
        """A name for it that leaves no folder: of `a/b.jpg` and `a\\b.jpg` the last part."""
        last = PureWindowsPath(PurePosixPath(self.name).name).name
        plain = re.sub(r"[\x00-\x1f\x7f/\\:\ud800-\udfff]", "", last).lstrip(".")
        stem, dot, suffix = plain.rpartition(".")
        kept = f"{_cut(stem)}{dot}{suffix[:10]}" if dot else _cut(suffix)
        return kept or "file"


def _cut(text: str) -> str:
    return text.encode()[:_LONGEST].decode(errors="ignore")


@dataclass
class GivenFiles:
    """The files of one job, each under the name that it had with the visitor.

    Names decide the key of a request, and with it the noise: a visitor who runs the command with a file of
    the same name gets the same result.

    Attributes:
        folder: in which they lie.
        inputs: path → name of the input that it was given for.
        shown: path → how the command names it.
    """

    folder: Path
    inputs: dict[str, str] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)

    def place(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values with a path in the place of each uploaded file."""
        return {name: self._placed(name, value) for name, value in values.items()}

    def named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values that `place` gave, as a visitor types them."""
        return {name: _replaced(value, self.shown) for name, value in values.items()}

    def readable(self, message: str) -> str:
        """A message that names the visitor's files, and no folder of this machine."""
        for path in sorted(self.shown, key=len, reverse=True):
            message = message.replace(path, self.shown[path])
        return re.sub(r"(?<![\w.])(/[\w.@+-]+){2,}", lambda match: match[0].rpartition("/")[2], message)

    def _put(self, name: str, file: Uploaded) -> str:
        shown = file.file_name
        number = 1
        while shown in self.shown.values():
            number += 1
            shown = f"{number}/{file.file_name}"
        path = self.folder / shown
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(file.path)
        self.inputs[str(path)], self.shown[str(path)] = name, shown
        return str(path)

    def _placed(self, name: str, value: Any) -> Any:
        if isinstance(value, Uploaded):
            return self._put(name, value)
        return [self._placed(name, each) for each in value] if isinstance(value, list) else value


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_replaced(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value
