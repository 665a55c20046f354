"""A clip of ConsisID's layout as one of our samples, and its annotations back without loss."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from portraitgen.data.formats.consisid.detections import key_by_frame
from portraitgen.data.formats.consisid.framed import framed_masks
from portraitgen.data.formats.consisid.labelled import surest_frames, usable_frames, with_people
from portraitgen.data.formats.consisid.layout import (
    Annotations,
    KeyedBy,
    check_name,
    join_masks,
    read_annotations,
    write_annotations,
)
from portraitgen.data.formats.consisid.native import detections_of, tables_of, tracks_of
from portraitgen.data.formats.consisid.reading import SIDE, ClipReading, clip_sound
from portraitgen.data.sample import ClipMasks, ClipSample, DataError, make_key
from portraitgen.faces.backend import FaceBackend
from portraitgen.media.decode import probe_video
from portraitgen.media.masks import decode_rle, encode_rle

# Keys become names inside tars, where USTAR leaves 100 bytes for key and member together.
_KEY_LENGTH = 60
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]|^-")


def import_clip(
    folder: Path | str,
    name: str,
    *,
    video: Path | str | None = None,
    caption: str | None = None,
    caption_entry: Mapping[str, Any] | None = None,
    licence: str | None = None,
    backend: FaceBackend | None = None,
    size: tuple[int, int] | None = None,
    note: Callable[[str, str], None] = lambda stage, message: None,
) -> ClipSample:
    """Make a sample of one clip.

    Clips that only the detectors have looked at get their people and control frames here (`labelled`), valid
    frames being those that ConsisID would have cut out.

    The picture keeps its size, if none is given; where a side is not a multiple of 4, its last pixels are
    repeated at the right and the lower border, and masks are empty there. Tracks are the people that have a
    face mask, or without masks all that have a face box, those seen longest first, with their heads
    and whole persons, masks and
    control frames. The video is encoded anew at its own rate, the sound brought to 16 kHz.

    What the tracks cannot say goes along under `source["consisid"]`: the detections, whose numbers have more
    digits than float32, and those tables that the tracks do not give back as they were. Not where a size was
    given: such a clip is a new one.

    Args:
        folder: holds refine_bbox_jsons and track_masks_data.
        name: of the clip, see `layout.clip_names`.
        video: default folder/videos/{name}.mp4.
        caption, caption_entry: what it shows, and all that the captions say of it.
        backend: looks for the landmarks of each person; where it finds none, a frame is not valid. None: no
            landmarks, and systems that are driven by them cannot train on the clip.
        size: (height, width), multiples of 4: what is shown is as much of the middle as has this
            proportion, moved as far as needed to hold the face of the person that is seen longest; boxes,
            landmarks and masks move along, and frames in which a face is cut off are not
            valid. None: all at its own size.
        note: called with (stage, what happened) for what is left out.

    Raises:
        DataError: a file is missing, damaged, or does not fit the video; nobody has a face.
        VideoError: the video cannot be read.
    """
    path = Path(folder) / "videos" / f"{check_name(name)}.mp4" if video is None else Path(video)
    if not path.is_file():
        raise DataError(f"{path}: no video of clip {name!r}")
    info = probe_video(path, square_pixels=False)
    annotations = read_annotations(folder, name, num_frames=info.num_frames)
    frames = key_by_frame(annotations.bbox_data, num_frames=info.num_frames)
    intact = np.ones(info.num_frames, dtype=bool)
    told = annotations
    if not annotations.corresponding_data and (labelled := with_people(frames)) is not frames:
        frames, intact = labelled, usable_frames(frames, info.num_frames)
        told = replace(annotations, control_sam2_frame=surest_frames(frames))
    people = tracks_of(told, frames, intact)
    reading = ClipReading(path, info, people, backend, size=size)
    if annotations.masks is not None and annotations.size != reading.size:
        raise DataError(
            f"clip {name}: its masks have (height, width) {annotations.size}, its video {reading.size}"
        )
    height, width = size or (side + -side % SIDE for side in reading.size)
    people = {number: reading.finished(number, track) for number, track in people.items()}
    if size is not None:
        people = {number: track for number, track in people.items() if track.valid.any()}
        if not people:
            raise DataError(f"clip {name}: no face is inside the {height}x{width} that is shown of it")
    main = next(iter(people.values()))
    found = ~np.isnan(main.scores)
    kept_tables = {
        "name": name,
        "size": list(reading.size),
        "tracks": list(people),
        "bbox_data": annotations.bbox_data,
        "tables": {
            table: getattr(annotations, table)
            for table, content in tables_of(people).items()
            if getattr(annotations, table) != content
        },
        "caption": dict(caption_entry or {}),
    }
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return ClipSample(
        key=make_key(source_id(name)),
        num_frames=info.num_frames,
        fps=info.fps,
        width=width,
        height=height,
        tracks=tuple(people.values()),
        landmark_scheme="none" if backend is None else backend.landmark_scheme,
        affine=np.eye(2, 3, dtype=np.float32) if reading.framing is None else reading.framing.affine,
        source={
            "uri": path.name,
            "sha256": digest,
            "t0": 0.0,
            "t1": float(info.num_frames / info.fps),
            "licence": licence,
            **({} if size is not None else {"consisid": kept_tables}),
        },
        video=reading.video,
        audio=clip_sound(path, info, reading.start_s, note),
        masks=_resized(annotations.masks, reading.size, (height, width))
        if reading.framing is None
        else framed_masks(annotations.masks, reading.framing, reading.size),
        scores={
            "min_face": float((main.boxes[found, 2:] - main.boxes[found, :2]).max(axis=1).min()),
            "coverage": float(found.mean()),
            "detection": float(main.scores[found].mean()),
        },
        caption=caption,
    )


def annotations_of(sample: ClipSample) -> Annotations:
    """A clip's annotations: of an imported one those that `import_clip` read, also after its way through a
    shard; of any other those that its tracks and masks give, under its key as name.

    Raises:
        DataError: the sample is a photo.
    """
    if sample.video is None:
        raise DataError(f"sample {sample.key} is a photo: ConsisID's layout is of clips")
    about: dict[str, Any] = sample.source.get("consisid", {})
    numbers = about.get("tracks", range(1, len(sample.tracks) + 1))
    height, width = about.get("size", (sample.height, sample.width))
    masks = _resized(sample.masks, (sample.height, sample.width), (height, width))
    return Annotations(
        name=about.get("name", sample.key),
        num_frames=sample.num_frames,
        bbox_data=about["bbox_data"] if about else detections_of(sample.tracks),
        **{**tables_of(dict(zip(numbers, sample.tracks, strict=True))), **about.get("tables", {})},
        masks=masks,
        mask_ids=() if masks is None else masks.ids,
        size=(0, 0) if masks is None else (height, width),
    )


def export_clip(sample: ClipSample, folder: Path | str, *, keyed_by: KeyedBy | None = None) -> None:
    """Write a clip's annotations in ConsisID's layout: the JSON files and the masks (see `annotations_of`).

    Args:
        keyed_by: see `layout.write_annotations`.

    Raises:
        DataError: the sample is a photo, or the clip is there already.
    """
    write_annotations(folder, annotations_of(sample), keyed_by=keyed_by)


def source_id(name: str) -> str:
    """Name for a key; where letters had to be replaced or cut off, a digest keeps names apart."""
    safe = _UNSAFE.sub("_", name)
    if safe == name and len(safe) <= _KEY_LENGTH:
        return safe
    return f"{safe[: _KEY_LENGTH - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _resized(masks: ClipMasks | None, size: tuple[int, int], new: tuple[int, int]) -> ClipMasks | None:
    """Masks with empty rows and columns added or cut off at the lower and the right border."""
    if masks is None or size == new:
        return masks
    height, width = (min(sides) for sides in zip(size, new, strict=True))
    runs: list[np.ndarray] = []
    for first, end in zip(masks.offsets[:-1], masks.offsets[1:], strict=True):
        resized = np.zeros(new, dtype=bool)
        resized[:height, :width] = decode_rle(masks.runs[first:end], size)[:height, :width]
        runs.append(encode_rle(resized))
    return join_masks(runs, masks.ids, masks.source)
