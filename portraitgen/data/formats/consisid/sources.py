"""The clips of ConsisID's layout as sources of shards, and what is read of each."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from portraitgen.data.formats.consisid.captions import CaptionedClip, read_captions, read_clip_list
from portraitgen.data.formats.consisid.layout import clip_names
from portraitgen.data.formats.consisid.samples import import_clip, source_id
from portraitgen.data.prepare.sources import Source, SourceError
from portraitgen.data.sample import ClipSample, DataError, make_key
from portraitgen.faces.backend import FaceBackend

_LIST_SUFFIX = ".txt"
_TABLES = ("corresponding_data", "control_sam2_frame", "valid_frame")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsisIDSource(Source):
    """A clip: its video is `path`.

    Attributes:
        annotations: folder that holds refine_bbox_jsons and track_masks_data.
        clip: its name in there.
        entry: what the captions file says of it.
    """

    annotations: Path
    clip: str
    entry: Mapping[str, Any]

    def stamp(self) -> tuple[Any, ...]:
        """Of the tables too; of the masks only that they are there, because they are so many."""
        tracks = self.annotations / "track_masks_data" / self.clip
        tables = [self.annotations / "refine_bbox_jsons" / f"{self.clip}.json"]
        tables += [tracks / f"{table}.json" for table in _TABLES]
        stats = [table.stat() for table in tables if table.is_file()]
        masked = (tracks / "tracking_mask_results").is_dir()
        stamps = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
        if not self.path.is_file():  # said of the one clip when it is read
            return (self.name, self.key, stamps, masked)
        # Not super(): a dataclass with slots is another class than the one that the method was written in.
        return (*Source.stamp(self), stamps, masked)


def find_clips(source: str, *, root: str, min_frames: int) -> list[ConsisIDSource]:
    """The clips of a list or of folders.

    Args:
        source: a list as ConsisID trains on (total_train_data.txt), or a folder under which the folders are
            that hold refine_bbox_jsons, track_masks_data, videos and, perhaps, captions.
        root: folder that the paths in a list start from.
        min_frames: clips that are shorter by their captions are left out.

    Raises:
        ValueError: nothing is there, or a list or a captions file cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == _LIST_SUFFIX:
        clips = read_clip_list(path, root=Path(root).expanduser(), min_frames=min_frames)
    elif path.is_dir():
        folders = sorted(found.parent for found in path.rglob("refine_bbox_jsons") if found.is_dir())
        if not folders:
            raise ValueError(
                f"source={source}: no refine_bbox_jsons in it; give the folder of ConsisID's data"
            )
        clips = [clip for folder in folders for clip in _clips_of(folder, min_frames)]
    else:
        raise ValueError(f"source={source}: give a list of ConsisID (.txt), or a folder with its annotations")
    if not clips:
        raise ValueError(f"source={source}: no clip with at least {min_frames} frames")
    taken = Counter(source_id(clip.name) for clip in clips)
    return [_source(clip, unique=taken[source_id(clip.name)] == 1) for clip in clips]


def _clips_of(folder: Path, min_frames: int) -> Iterator[CaptionedClip]:
    """The clips annotated in a folder, with the captions that lie beside."""
    entries = {
        Path(entry["path"]).name.removesuffix(".mp4"): entry
        for file in sorted((folder / "captions").glob("*.json"))
        for entry in read_captions(file)
    }
    for name in clip_names(folder):
        entry = entries.get(name, {})
        if not entry or float(entry["fps"]) * float(entry["duration"]) >= min_frames:
            yield CaptionedClip(folder / "videos" / f"{name}.mp4", folder, name, entry.get("cap"), entry)


def _source(clip: CaptionedClip, *, unique: bool) -> ConsisIDSource:
    key = source_id(clip.name)
    if not unique:  # clips of one name in several folders
        key = f"{key}-{hashlib.sha256(str(clip.annotations).encode()).hexdigest()[:8]}"
    return ConsisIDSource(
        path=clip.video,
        name=f"{clip.annotations.name}/{clip.name}",
        key=key,
        is_video=True,
        caption=clip.caption,
        annotations=clip.annotations,
        clip=clip.name,
        entry=clip.entry,
    )


@dataclass(frozen=True, slots=True)
class ConsisIDReader:
    """Reads the sample of a clip (see `data/prepare/job.ReadSource`).

    Attributes:
        backend: finds landmarks, None for none.
        size: see `import_clip`.
    """

    licence: str | None
    backend: FaceBackend | None
    size: tuple[int, int] | None = None

    def __call__(
        self,
        source: Source,
        folder: Path,
        note: Callable[[str, str], None],
        progress: Callable[[float], None],
    ) -> Iterator[ClipSample]:
        assert isinstance(source, ConsisIDSource)
        try:
            sample = import_clip(
                source.annotations,
                source.clip,
                video=source.path,
                caption=source.caption,
                caption_entry=source.entry,
                licence=self.licence,
                backend=self.backend,
                size=self.size,
                note=note,
            )
        except DataError as error:
            raise SourceError(source, "import", str(error)) from error
        if not any(track.valid.any() for track in sample.tracks):
            raise SourceError(
                source, "detect", "no landmarks found where its face boxes are, or no valid frame"
            )
        progress(sample.num_frames)
        yield replace(sample, key=make_key(source.key))
