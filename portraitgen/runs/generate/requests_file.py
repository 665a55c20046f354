"""A file of many requests: CSV, or JSON Lines, each row with the keys that generate.py takes."""

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from portraitgen.data.remote.address import PIPE, is_address, local_path
from portraitgen.runs.config.targets import did_you_mean
from portraitgen.training.inputs import PATHS, Input


def read_requests(
    file: str, known: Mapping[str, Input], more: Collection[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a requests file: where each stands, for messages, and what it gives.

    An empty cell of a CSV gives nothing; one that begins with `[` is a list in JSON. Rows of JSON Lines may
    hold a system's own settings in `inputs` or by their names, `inputs.frame`. Relative paths lie beside the
    file; addresses (s3://…) stay as they are.

    Args:
        known: what the system takes, by name.
        more: what a row may say beside that.

    Raises:
        ValueError: the file cannot be read, holds a key that is not known, or a command.
    """
    path = Path(file)
    if path.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"requests={file}: give a .csv or a .jsonl file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"requests={file}: cannot be read ({error})") from error
    rows = _csv_rows(file, text) if path.suffix == ".csv" else _json_rows(file, text)
    empty = True
    for place, row in rows:
        empty = False
        for key in row:
            if key not in known and key not in more:
                hint = did_you_mean(key, [*known, *more])
                raise ValueError(
                    f"requests={file}, {place}: {key} is not taken{hint}; a row may have "
                    f"{', '.join([*known, *more])}"
                )
        given = {key: value for key, value in row.items() if value is not None}
        try:
            found = {k: _found(path.parent, known[k], v) if k in known else v for k, v in given.items()}
        except ValueError as error:
            raise ValueError(f"requests={file}, {place}: {error}") from error
        yield place, found
    if empty:
        raise ValueError(f"requests={file}: the list is empty")


def _csv_rows(file: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        table = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(f"requests={file}: cannot be read as CSV ({error})") from error
    for number, row in enumerate(table, start=1):
        place = f"row {number}"
        if None in row or None in row.values():
            raise ValueError(f"requests={file}, {place}: it has another number of cells than the header")
        yield place, {key.strip(): _cell(file, place, key, cell.strip()) for key, cell in row.items()}


def _cell(file: str, place: str, key: str, cell: str) -> Any:
    """What a cell says: a list or a number where it is one, else its words; None for nothing."""
    if not cell:
        return None
    if cell.startswith("["):
        return _json(cell, f"requests={file}, {place}, {key}")
    try:
        value = json.loads(cell)
    except json.JSONDecodeError:
        return cell
    return value if isinstance(value, bool | int | float) else cell


def _json_rows(file: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        row = _json(line, f"requests={file}, {place}")
        if not isinstance(row, dict) or not isinstance(row.get("inputs", {}), dict):
            raise ValueError(f"requests={file}, {place}: give an object, {{...}}; `inputs` is one too")
        own = {f"inputs.{key}": value for key, value in row.pop("inputs", {}).items()}
        yield place, {**row, **own}


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{place}: not JSON ({error})") from error


def _found(folder: Path, known: Input, value: Any) -> Any:
    """A value whose paths lie in `folder` unless they are absolute, or addresses.

    Raises:
        ValueError: it is a shell command: the file may be anybody's.
    """
    if known.kind not in (*PATHS, "photos", "shards", "layout"):
        return value
    if isinstance(value, list):
        return [_found(folder, known, each) for each in value]
    if not isinstance(value, str):
        return value
    if value.strip().startswith(PIPE):
        raise ValueError(f"{known.name}: a shell command (pipe:…) in a file is not run; type it as shards=…")
    path = local_path(value)
    return path if is_address(path) else str(folder / path)
