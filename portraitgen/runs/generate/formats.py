"""Results in other formats: beside the mp4, and `out=result.mp4`, which is one file."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from portraitgen.media.animation import FORMATS, write_frames, write_gif, write_webm
from portraitgen.media.files import replacing
from portraitgen.runs.generate.result_list import ResultList

SUFFIXES = (".mp4", ".gif", ".webm", ".png")
"""Endings of `out` that ask for one file."""


def result_folder(out: str) -> Path:
    """Where the results go: `out`, and for `out=result.mp4`, beside which there is more, `result`."""
    path = Path(out).expanduser()
    return path.with_suffix("") if path.suffix.lower() in SUFFIXES else path


def wanted_formats(out: str, formats: Sequence[str]) -> list[str]:
    """The formats to write beside mp4 and PNG.

    Raises:
        ValueError: one that there is not.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f"formats: there is no {', '.join(unknown)}; give some of {', '.join(FORMATS)}")
    ending = Path(out).suffix.lower().removeprefix(".")
    return list(dict.fromkeys([*formats, *([ending] if ending in FORMATS else [])]))


def write_formats(folder: Path, files: dict[str, object], formats: Sequence[str]) -> None:
    """Write the clip that `files` names in `formats`, and add their names; a picture stays as it is."""
    if "video" not in files:
        return
    video = folder / str(files["video"])
    for name in formats:
        if name == "frames":
            files["frames_folder"] = str(Path(str(files["video"])).with_suffix(""))
            write_frames(video.with_suffix(""), video)
            continue
        files[name] = str(Path(str(files["video"])).with_suffix(f".{name}"))
        (write_gif if name == "gif" else write_webm)(video.with_suffix(f".{name}"), video)


def write_single_file(out: str, results: ResultList) -> Path | None:
    """Of `out=result.mp4` (.gif, .webm, .png) that file; None where `out` is a folder.

    Raises:
        ValueError: this run has other results than one of that format.
    """
    path = Path(out).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        return None
    kind = {".mp4": "video", ".png": "image"}.get(path.suffix.lower(), path.suffix.lower()[1:])
    made = [row[kind] for row in results.mine() if kind in row]
    if len(made) != 1 or len(results) != 1:
        raise ValueError(
            f"out={out} is one file, but there are {len(results)} results, {len(made)} of them {path.suffix}:"
            f" they lie in {results.folder}; give a folder"
        )
    with replacing(path) as temporary:
        try:
            os.link(results.folder / made[0], temporary)
        except OSError:  # the file system has no hard links
            shutil.copyfile(results.folder / made[0], temporary)
    return path
