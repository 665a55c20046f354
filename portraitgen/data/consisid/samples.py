"""A clip of ConsisID's layout as one of our samples, and its annotations back without loss."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from portraitgen.data.consisid.detections import FrameDetections, key_by_frame
from portraitgen.data.consisid.layout import (
    Annotations,
    KeyedBy,
    check_name,
    join_masks,
    read_annotations,
    write_annotations,
)
from portraitgen.data.sample import ClipMasks, ClipSample, ClipTrack, DataError, make_key
from portraitgen.media.decode import VideoInfo, iter_frames, probe_video
from portraitgen.media.encode import encode_clip
from portraitgen.media.masks import decode_rle, encode_rle

_SIDE = 4  # sides of a sample are multiples of it
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]|^-")
_TABLES = ("bbox_data", "corresponding_data", "control_sam2_frame", "valid_frame")


def import_clip(
    folder: Path | str,
    name: str,
    *,
    video: Path | str | None = None,
    caption: str | None = None,
    licence: str | None = None,
) -> ClipSample:
    """Make a sample of one clip; what ConsisID says of it goes along under `source["consisid"]`.

    The picture keeps its size; where a side is not a multiple of 4, its last pixels are repeated at the right
    and the lower border, and masks are empty there. Tracks are the people that have a face mask, or without
    masks all that have a face box, those seen longest first: face boxes, no key points and no landmarks. The
    video is encoded anew, without its sound.

    Args:
        folder: holds refine_bbox_jsons and track_masks_data.
        name: of the clip, see `layout.clip_names`.
        video: default folder/videos/{name}.mp4.

    Raises:
        DataError: a file is missing, damaged, or does not fit the video; nobody has a face.
        VideoError: the video cannot be read.
    """
    path = Path(folder) / "videos" / f"{check_name(name)}.mp4" if video is None else Path(video)
    if not path.is_file():
        raise DataError(f"{path}: no video of clip {name!r}")
    info = probe_video(path)
    annotations = read_annotations(folder, name, num_frames=info.num_frames)
    clip, size, intact = _encoded(path, info)
    if annotations.masks is not None and annotations.size != size:
        raise DataError(f"clip {name}: its masks have (height, width) {annotations.size}, its video {size}")
    height, width = (side + -side % _SIDE for side in size)
    frames = key_by_frame(annotations.bbox_data, num_frames=info.num_frames)
    people = _people(annotations, frames, intact)
    main = next(iter(people.values()))
    found = ~np.isnan(main.scores)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return ClipSample(
        key=make_key(_source_id(name)),
        num_frames=info.num_frames,
        fps=info.fps,
        width=width,
        height=height,
        tracks=tuple(people.values()),
        landmark_scheme="none",
        affine=np.eye(2, 3, dtype=np.float32),
        source={
            "uri": path.name,
            "sha256": digest,
            "t0": 0.0,
            "t1": float(info.num_frames / info.fps),
            "licence": licence,
            "consisid": {
                "name": name,
                "size": list(size),
                "mask_ids": list(annotations.mask_ids),
                "tracks": list(people),
                **{table: getattr(annotations, table) for table in _TABLES},
            },
        },
        video=clip,
        masks=_resized(annotations.masks, size, (height, width)),
        scores={
            "min_face": float((main.boxes[found, 2:] - main.boxes[found, :2]).max(axis=1).min()),
            "coverage": float(found.mean()),
            "detection": float(main.scores[found].mean()),
        },
        caption=caption,
    )


def annotations_of(sample: ClipSample) -> Annotations:
    """The annotations that `import_clip` read, also after the sample's way through a shard.

    Raises:
        DataError: the sample does not come from ConsisID's layout.
    """
    about: dict[str, Any] | None = sample.source.get("consisid")
    if about is None:
        raise DataError(
            f"sample {sample.key} does not come from ConsisID's layout: it has no such annotations"
        )
    height, width = about["size"]
    masks = _resized(sample.masks, (sample.height, sample.width), (height, width))
    return Annotations(
        name=about["name"],
        num_frames=sample.num_frames,
        **{table: about[table] for table in _TABLES},
        masks=masks,
        mask_ids=tuple(about["mask_ids"]),
        size=(0, 0) if masks is None else (height, width),
    )


def export_clip(sample: ClipSample, folder: Path | str, *, keyed_by: KeyedBy | None = None) -> None:
    """Write the annotations of an imported sample in ConsisID's layout: the JSON files and the masks.

    The video is not part of it: a sample's is encoded anew, the original is the better one to put beside.

    Args:
        keyed_by: see `layout.write_annotations`.

    Raises:
        DataError: the sample was not imported, or the clip is there already.
    """
    write_annotations(folder, annotations_of(sample), keyed_by=keyed_by)


def _encoded(path: Path, info: VideoInfo) -> tuple[bytes, tuple[int, int], np.ndarray]:
    """A clip for a shard, (height, width) of the video, and bool [T]: frames without damage."""
    intact: list[bool] = []
    sizes: set[tuple[int, int]] = set()

    def pictures() -> Iterator[np.ndarray]:
        for frame in iter_frames(path):
            intact.append(not frame.corrupt)
            height, width = frame.image.shape[:2]
            sizes.add((height, width))
            yield np.pad(frame.image, ((0, -height % _SIDE), (0, -width % _SIDE), (0, 0)), mode="edge")

    clip = encode_clip(pictures(), fps=info.fps)
    if len(intact) != info.num_frames or len(sizes) != 1:
        raise DataError(
            f"{path}: claims {info.num_frames} frames of one size, gives {len(intact)} of {sorted(sizes)}; "
            "encode it anew"
        )
    return clip, sizes.pop(), np.array(intact)


def _source_id(name: str) -> str:
    """Name for a key; where letters had to be replaced, a digest keeps names apart."""
    safe = _UNSAFE.sub("_", name)
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _people(annotations: Annotations, frames: FrameDetections, intact: np.ndarray) -> dict[int, ClipTrack]:
    """Track number -> track."""
    if annotations.corresponding_data:
        tables = annotations.corresponding_data.items()
        numbers = {int(track) for track, regions in tables if "face" in regions}
    else:
        faces = (face for objects in frames.values() for face in objects.get("face", []))
        numbers = {face["new_track_id"] for face in faces if "new_track_id" in face}
    tracks = {number: _track(annotations, frames, number, intact) for number in sorted(numbers)}
    shown = {number: track for number, track in tracks.items() if not np.isnan(track.scores).all()}
    if not shown:
        raise DataError(f"clip {annotations.name}: nobody has both a face box and, where masks are, its mask")
    return dict(sorted(shown.items(), key=lambda item: -int(item[1].valid.sum())))


def _track(annotations: Annotations, frames: FrameDetections, number: int, intact: np.ndarray) -> ClipTrack:
    length = annotations.num_frames
    boxes = np.full((length, 4), np.nan, np.float32)
    scores = np.full(length, np.nan, np.float32)
    for frame, objects in frames.items():
        for face in objects.get("face", []):
            if face.get("new_track_id") == number and not scores[int(frame)] >= face["confidence"]:
                boxes[int(frame)] = [face["box"][corner] for corner in ("x1", "y1", "x2", "y2")]
                scores[int(frame)] = face["confidence"]
    valid = intact & ~np.isnan(scores)
    if annotations.corresponding_data:
        masked = np.zeros(length, dtype=bool)
        masked[annotations.valid_frame.get(str(number), {}).get("face", [])] = True
        valid &= masked
    return ClipTrack(
        boxes=boxes,
        scores=scores,
        keypoints=np.full((length, 5, 2), np.nan, np.float32),
        landmarks=np.zeros((length, 0, 2), np.float32),
        valid=valid,
    )


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
