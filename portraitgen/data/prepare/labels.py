"""What is known of the sources beforehand: captions and names, from files beside them, tables, or folders."""

import csv
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from portraitgen.data.prepare.sources import Source

log = logging.getLogger(__name__)

_COLUMNS = ("file", "caption", "identity")


def label_sources(
    sources: Sequence[Source], *, labels: Path | None, folder_identities: bool
) -> tuple[list[Source], int]:
    """The sources with their captions and the names of the people in them.

    A caption is the text of a file of the same name that ends in .txt; an identity is the name of the folder
    that the source lies in, if `folder_identities` is set. What the table says goes first.

    Args:
        labels: a table with the columns file, caption, identity (of which the last two may be empty or
            missing): CSV with a header, or one JSON object a line. Files are named relative to the source
            folder; lines about files that are not there are counted, not refused.

    Returns:
        The sources, and the number of such lines.

    Raises:
        ValueError: the table cannot be read, names a file twice, or names none of the sources.
    """
    table = {} if labels is None else _read_table(labels)
    if table and table.keys().isdisjoint(source.name for source in sources):
        raise ValueError(
            f"labels={labels}: none of its {len(table)} files is among the {len(sources)} sources, such as "
            f"{sources[0].name}: name them relative to the source folder"
        )
    labelled = []
    for source in sources:
        caption, identity_name = table.pop(source.name, (None, None))
        parent = PurePosixPath(source.name).parent.name
        if identity_name is None and folder_identities and parent:
            identity_name = parent
        labelled.append(replace(source, caption=caption or _text_beside(source), identity_name=identity_name))
    return labelled, len(table)


MAX_CAPTION_BYTES = 64_000
"""Of a caption file: far more than any text encoder reads."""


def _text_beside(source: Source) -> str | None:
    """The caption in the file beside a source; what is no caption is left out with a line."""
    path = source.path.with_suffix(".txt")
    try:
        if not path.is_file():
            if path.exists():
                log.warning("%s: the caption %s is no regular file; left out", source.name, path.name)
            return None
        with path.open("rb") as file:
            text = file.read(MAX_CAPTION_BYTES + 1)
        if len(text) > MAX_CAPTION_BYTES:
            log.warning(
                "%s: the caption %s has more than %d bytes; left out",
                source.name,
                path.name,
                MAX_CAPTION_BYTES,
            )
            return None
        return text.decode("utf-8-sig").strip() or None
    except UnicodeDecodeError:
        log.warning("%s: the caption %s is no UTF-8 text; left out", source.name, path.name)
    except OSError as error:
        log.warning("%s: the caption %s cannot be read (%s)", source.name, path.name, error.strerror)
    return None


def _encodable(text: str | None, name: str) -> str | None:
    """A caption or name of a table, unless it holds halves of characters, which no file can."""
    if text is not None and re.search("[\ud800-\udfff]", text):
        log.warning("%s: its caption or identity is no valid Unicode; left out", name)
        return None
    return text


def _read_table(path: Path) -> dict[str, tuple[str | None, str | None]]:
    """File -> caption and identity."""
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"labels={path}: give a .csv or a .jsonl file")
    if path.exists() and not path.is_file():
        raise ValueError(f"labels={path} is no regular file: give a .csv or a .jsonl file")
    table: dict[str, tuple[str | None, str | None]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = _csv_rows(stream) if path.suffix.lower() == ".csv" else _json_rows(stream)
            for number, row in rows:
                unknown = sorted(row.keys() - set(_COLUMNS))
                if unknown or "file" not in row:
                    problem = f"unknown column {unknown[0]!r}" if unknown else "no column 'file'"
                    raise ValueError(f"line {number}: {problem}; there are file, caption and identity")
                wrong = [name for name, value in row.items() if not isinstance(value, str | None)]
                if wrong or not row["file"]:
                    raise ValueError(f"line {number}: {wrong[0] if wrong else 'file'} must be text")
                name = PurePosixPath(row["file"]).as_posix()
                if name in table:
                    raise ValueError(f"line {number}: {name} is there twice")
                caption, identity = row.get("caption") or None, row.get("identity") or None
                table[name] = (_encodable(caption, name), _encodable(identity, name))
    except OSError as error:
        raise ValueError(f"labels={path} cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:
        raise ValueError(f"labels={path}: {error}") from error
    return table


def _csv_rows(stream: Iterable[str]) -> Iterator[tuple[int, dict[str, str | None]]]:
    reader = csv.DictReader(stream, restkey="too many values", strict=True)
    for row in reader:
        yield reader.line_num, row


def _json_rows(stream: Iterable[str]) -> Iterator[tuple[int, dict[str, str | None]]]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number}: must be a JSON object")
            yield number, row
