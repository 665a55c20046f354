"""The list of results in a folder, samples.jsonl: runs of generate.py add to it, none replaces another's."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from portraitgen.media.files import replace_file, writable_folder
from portraitgen.runs.evaluate.sources.samples import SAMPLES

FILES = ("video", "image", "panel", "sheet", "landmarks", "gif", "webm", "frames_folder")
"""Entries of a row that name files."""

_NO_FACTS = ("key", "shown", "frames", "config", *FILES)
FOLDERS = ("generated", "panels", "sheets", "landmarks", "configs")
"""What lies beside the list."""


class ResultList:
    """The rows of samples.jsonl in `folder`, by key; rows of earlier runs stay.

    Args:
        folder: of the results; it is made, and what killed runs left of unfinished files is removed.

    Raises:
        ValueError: the folder cannot be written to, or the list in it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = writable_folder(folder)
        for name in FOLDERS:
            if (folder / name).is_dir():
                writable_folder(folder / name)
        self.path = folder / SAMPLES
        self._rows: dict[str, dict[str, Any]] = {}
        self._mine: set[str] = set()
        if self.path.is_file():
            self._rows = {row["key"]: row for row in self._stored()}

    def __len__(self) -> int:
        """Rows of this run."""
        return len(self._mine)

    def mine(self) -> list[dict[str, Any]]:
        """Rows of this run."""
        return [row for key, row in self._rows.items() if key in self._mine]

    def key_for(self, name: str, facts: Mapping[str, Any]) -> str:
        """`name`, or `name-2`, `name-3` … where another result has it; the same result is made again."""
        key, number = name, 1
        while key in self._rows and (key in self._mine or _facts(self._rows[key]) != _facts(facts)):
            number += 1
            key = f"{name}-{number}"
        return key

    def add(self, row: Mapping[str, Any]) -> None:
        """Write the list with this row, which stands in for one of its key."""
        self._mine.add(row["key"])
        self._rows[row["key"]] = json.loads(json.dumps(row))
        lines = "".join(f"{json.dumps(each)}\n" for each in self._rows.values())
        replace_file(self.path, lines.encode())

    def save_config(self, settings: Mapping[str, Any]) -> str:
        """Save the settings of this run, once for all runs of the same; its name within the folder."""
        text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True).encode()
        path = self.folder / "configs" / f"{hashlib.sha256(text).hexdigest()[:8]}.yaml"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            replace_file(path, text)
        return str(path.relative_to(self.folder))

    def _stored(self) -> list[dict[str, Any]]:
        try:
            rows = [json.loads(line) for line in self.path.read_text().splitlines() if line.strip()]
            assert all(isinstance(row["key"], str) for row in rows)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise ValueError(
                f"{self.path} lists earlier results, and cannot be read: move it away, or give another out=…"
            ) from error
        return rows


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """What made a result, as it comes out of a file."""
    facts: dict[str, Any] = json.loads(json.dumps({k: v for k, v in row.items() if k not in _NO_FACTS}))
    return facts
