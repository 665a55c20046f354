"""ConsisID's list of clips: where videos and annotations lie, and what a caption says of each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from portraitgen.data.formats.consisid.layout import check_name
from portraitgen.data.sample import DataError


@dataclass(frozen=True, slots=True)
class CaptionedClip:
    """One clip of the list: its video, the folder with its annotations, its name in there, its caption, and
    all that the captions file says of it."""

    video: Path
    annotations: Path
    name: str
    caption: str | None
    entry: Mapping[str, Any]


def read_clip_list(file: Path | str, *, root: Path | str, min_frames: int = 49) -> list[CaptionedClip]:
    """The clips of a list with lines "videos folder,captions.json,annotations folder".

    A caption's path may lack ".mp4" (ConsisID's own tools write it so, and its loader then finds no video).

    Args:
        root: folder that the paths in the list start from.
        min_frames: clips shorter than this (rate times duration) are left out.

    Raises:
        DataError: a line or an entry that is none, or a path that leads out of its folder.
    """
    clips = []
    for number, line in enumerate(Path(file).read_text().splitlines(), start=1):
        parts = [part.strip() for part in line.split(",")]
        if parts == [""]:
            continue
        if len(parts) != 3:
            raise DataError(f"{file}:{number}: must be 'videos folder,captions.json,annotations folder'")
        videos, captions, annotations = (Path(root) / part for part in parts)
        for entry in read_captions(captions):
            if float(entry["fps"]) * float(entry["duration"]) >= min_frames:
                path = _inside(entry["path"], captions)
                clips.append(
                    CaptionedClip(videos / path, annotations, check_name(path.stem), entry["cap"], entry)
                )
    return clips


def _inside(path: str, captions: Path) -> PurePosixPath:
    """The path with ".mp4", sure to stay below the folder that it is joined to."""
    with_suffix = PurePosixPath(path if path.endswith(".mp4") else f"{path}.mp4")
    if with_suffix.is_absolute() or ".." in with_suffix.parts or "\\" in path:
        raise DataError(f"{captions}: path {path!r} leads out of the videos folder")
    return with_suffix


def read_captions(file: Path) -> list[dict[str, Any]]:
    """The entries of a captions file: path, cap, fps, duration and more; DataError when it is none."""
    try:
        entries = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(entries, list):
        raise DataError(f"{file}: must be a list of captions")
    for number, entry in enumerate(entries):
        kinds: dict[str, Any] = {"path": str, "cap": str, "fps": (int, float), "duration": (int, float)}
        wrong = [
            name
            for name, kind in kinds.items()
            if not isinstance(entry, dict) or not isinstance(entry.get(name), kind)
        ]
        if wrong:
            raise DataError(f"{file}: entry {number} has no usable {wrong[0]!r}")
    return entries
