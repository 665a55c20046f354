"""Which file is graded against which: by the names of the files, or by a CSV."""

import csv
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from portraitgen.runs.config.targets import did_you_mean
from portraitgen.runs.evaluate.sources.files import PICTURES, VIDEOS, file_of_name, media_files

COLUMNS = ("generated", "real", "reference", "audio", "prompt")


@dataclass(frozen=True, slots=True)
class Pair:
    """One clip and what it is graded against.

    Attributes:
        key: names the video in every table.
        generated: where the generated clip should be.
        real: the frames that it should have been, or None.
        references: the picture that the generator was given of each person; of none: nobody knows.
        audio: the sound that drove it, or None: then the sound of the files.
        prompt: the text that the generator was given, or None.
    """

    key: str
    generated: Path
    real: Path | None = None
    references: tuple[Path, ...] = ()
    audio: Path | None = None
    prompt: str | None = None


def pairs_by_name(generated: Path, real: Path) -> list[Pair]:
    """Every file of `real` with the generated one of the same name, whatever their suffixes.

    A real file without a generated one is a clip that failed. A generated file without a real one has nothing
    to be graded against here.

    Raises:
        ValueError: a folder is missing or empty, no name is in both, or a generated file has no partner.
    """
    ours, theirs = media_files(generated), media_files(real)
    if not ours.keys() & theirs.keys():
        raise ValueError(
            f"no file of {generated} has the name of one in {real} ({next(iter(ours))} …, "
            f"{next(iter(theirs))} …): give them the same names, or list them in pairs=….csv"
        )
    lonely = sorted(ours.keys() - theirs.keys())
    if lonely:
        raise ValueError(
            f"{len(lonely)} files of {generated} have no partner in {real}: {', '.join(lonely[:3])}…; remove "
            "them, or list what to grade in pairs=….csv"
        )
    return [Pair(key, ours.get(key, generated / f"{key}{path.suffix}"), path) for key, path in theirs.items()]


def pairs_from_csv(path: Path, *, generated: Path, real: Path | None) -> list[Pair]:
    """Pairs of a CSV with a column `generated` and any of `COLUMNS`; an empty cell is nothing.

    Relative paths lie in the folders `generated` and `real` (or beside the CSV when there is none); those of
    `reference` and `audio` beside the CSV. A cell `["ann.jpg", "bob.jpg"]` names a reference of each person.

    Raises:
        ValueError: the CSV cannot be read, has unknown columns, or names files of the user that are missing;
            all of them are listed. A missing generated file is that clip's failure.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            names = reader.fieldnames or []
            table = list(reader)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"pairs={path}: cannot be read as CSV ({error})") from error
    unknown = [name for name in names if name not in COLUMNS]
    if unknown or "generated" not in names:
        wrong = (
            f"unknown column {unknown[0]!r}{did_you_mean(unknown[0], COLUMNS)}" if unknown else "no column"
        )
        raise ValueError(
            f"pairs={path}: {wrong}; it needs `generated`, and may have {', '.join(COLUMNS[1:])}"
        )
    if not table:
        raise ValueError(f"pairs={path}: the list is empty")

    folders = {"generated": generated, "real": real or path.parent}
    pairs: dict[str, Pair] = {}
    problems: list[str] = []
    for number, row in enumerate(table, start=2):
        cells = {name: (row.get(name) or "").strip() for name in COLUMNS}
        try:
            named = _named(cells)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        files = {
            name: [file_of_name(folders.get(name, path.parent) / each) for each in paths]
            for name, paths in named.items()
        }
        problems += [f"line {number}: {problem}" for problem in _problems(files)]
        if "generated" not in files:
            continue
        key = Path(cells["generated"]).with_suffix("").as_posix().lstrip("/")
        key = unicodedata.normalize("NFC", key)
        if key in pairs:
            problems.append(f"line {number}: {key} is listed twice")
        pairs[key] = Pair(
            key,
            files["generated"][0],
            next(iter(files.get("real", ())), None),
            tuple(files.get("reference", ())),
            next(iter(files.get("audio", ())), None),
            cells["prompt"] or None,
        )
    if problems:
        raise ValueError("\n  ".join([f"pairs={path} cannot be used:", *problems]))
    return [pairs[key] for key in sorted(pairs)]


def _named(cells: Mapping[str, str]) -> dict[str, list[str]]:
    """Column → the files that a row names there, without those of which it names none.

    Raises:
        ValueError: a list of references that is none.
    """
    named = {name: [cells[name]] for name in COLUMNS[:4] if cells[name]}
    if cells["reference"].startswith("["):
        try:
            paths = json.loads(cells["reference"])
        except json.JSONDecodeError as error:
            raise ValueError(f"reference: {cells['reference']} is no list in JSON ({error})") from error
        if not paths or not all(isinstance(path, str) for path in paths):
            raise ValueError(f"reference: {cells['reference']}: list one file of each person")
        named["reference"] = paths
    return named


def _problems(files: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    if "generated" not in files:
        yield "no generated file is named"
    for name, path in ((name, path) for name, paths in files.items() for path in paths):
        if name != "audio" and path.suffix.lower() not in VIDEOS + PICTURES:
            yield f"{name}: {path} is no video or picture ({', '.join(VIDEOS + PICTURES)})"
        elif name != "generated" and not path.is_file():
            yield f"{name}: {path}: no such file"
