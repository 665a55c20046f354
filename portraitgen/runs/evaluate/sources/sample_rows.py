"""Lines of samples.jsonl, judged: whoever wrote the folder, a report shows only what lies in it."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from portraitgen.data.remote.address import PIPE
from portraitgen.media.bounded import parse_rate
from portraitgen.media.files import inside, is_file_name

FILES = ("video", "image", "panel", "sheet", "landmarks")
"""Entries of a line that name files beside it."""

MAX_BYTES = 256 << 20
MAX_FRAMES = 1_000_000
MAX_SIDE = 16_384
MAX_PATH = 4000


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a samples.jsonl.

    Raises:
        ValueError: damaged, or a row that does not say what it must, names files outside of the folder, or
            has the key of another; with the line.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than the {MAX_BYTES} that are read")
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: {error}; generate the clips again") from error
        for name, problem in _problems(row, path.parent):
            raise ValueError(f"{path}, line {number}, {name}: {problem}")
        if row["key"] in rows:
            raise ValueError(f"{path}, line {number}, key: {row['key']!r} stands there twice")
        rows[row["key"]] = row
    return [*rows.values()]


def _problems(row: Any, folder: Path) -> Iterator[tuple[str, str]]:
    if not isinstance(row, dict):
        yield "all", "must be a mapping"
        return
    for name in FILES:
        if name in row and not isinstance(row[name], str):
            yield name, "must be the name of a file"
        try:
            inside(folder, row.get(name, ""))
        except (ValueError, OSError, RuntimeError) as error:
            yield name, str(error)
    if "video" not in row and "image" not in row:
        yield "video", "not there, and no image either"
    for name, (holds, wanted) in {**_NEEDED, **_OPTIONAL}.items():
        if name in row or name in _NEEDED:
            if name not in row:
                yield name, f"not there: {wanted}"
            elif not holds(row[name]):
                yield name, f"must be {wanted}"
    if "shard" in row and "reference_frame" not in row:
        yield "reference_frame", "not there: the frame that shows the person"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _rate(value: Any) -> bool:
    try:
        return value is None or parse_rate(value) > 0
    except ValueError:
        return False


def _frames(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MAX_FRAMES and all(_frame(each) for each in value)


def _frame(value: Any) -> bool:
    return _whole(value) and 0 <= value < 1 << 31


def _part(value: Any) -> bool:
    whole = isinstance(value, list) and len(value) == 6 and all(map(_number, value))
    return whole and all(abs(each) <= MAX_SIDE for each in value) and all(each > 0 for each in value[2:])


def _span(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and all(map(_number, value)))


def _photos(value: Any) -> bool:
    people = isinstance(value, list) and all(isinstance(each, list) and each for each in value)
    return people and all(_path(photo) for each in value for photo in each)


def _path(value: Any) -> bool:
    """Whether a file system can be asked for it."""
    return isinstance(value, str) and len(value) <= MAX_PATH and all(map(is_file_name, value.split("/")))


def _shard(value: Any) -> bool:
    """A list of results may be anybody's: what it names is read, not run."""
    return _path(value) and not value.startswith(PIPE)


def _plain_facts(value: Any) -> bool:
    return isinstance(value, dict) and all(not isinstance(each, dict) for each in value.values())


Check = tuple[Callable[[Any], bool], str]

_NEEDED: Mapping[str, Check] = {
    "key": (lambda value: isinstance(value, str) and 0 < len(value) <= 500 and "\0" not in value, "a text"),
    "fps": (_rate, "frames a second, or null of a picture"),
    "frames": (_frames, f"the numbers of 1 to {MAX_FRAMES} frames"),
    "train_span": (_span, "two shares of the clip, or null"),
    "frames_trained_on": (_frame, "a number of frames"),
    "seed": (_whole, "a whole number"),
    "sampling": (_plain_facts, "a mapping of plain values"),
}
_OPTIONAL: Mapping[str, Check] = {
    **dict.fromkeys(("system", "weights", "clip"), (_text, "a text")),
    "shard": (_shard, "a path or an address, and no command"),
    **{name: (lambda value: value is None or _text(value), "a text") for name in ("prompt", "commit")},
    "reference_frame": (_frame, "the number of a frame"),
    "part": (_part, "x, y, columns, rows, width and height"),
    "references": (_photos, "for each person a list of photos"),
    "recognizers": (lambda value: isinstance(value, dict) and all(map(_text, value.values())), "texts"),
    "shown": (lambda value: isinstance(value, list) and all(map(_text, value)), "a list of texts"),
}
