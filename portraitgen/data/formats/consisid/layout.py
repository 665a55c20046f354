"""ConsisID's files about one clip, read and written without loss.

    folder/refine_bbox_jsons/{name}.json                    bbox_data, see `detections`
    folder/track_masks_data/{name}/corresponding_data.json  track -> region -> mask object id
                                  /control_sam2_frame.json  track -> region -> frame of the surest box
                                  /valid_frame.json         track -> region -> frames with a mask
                                  /tracking_mask_results/{object id}/annotated_frame_{00000}.png

A mask is a 16-bit PNG of the size of the video, 0 or the object's id.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from portraitgen.data.formats.consisid.detections import (
    check_detections,
    is_keyed_by_track,
    key_by_frame,
    key_by_track,
)
from portraitgen.data.sample import ClipMasks, DataError
from portraitgen.media.files import replace_file
from portraitgen.media.masks import decode_rle, encode_rle

_NAME = re.compile(r"[^\s./\\\x00-\x1f][^/\\\x00-\x1f]*")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_TABLES = ("corresponding_data", "control_sam2_frame", "valid_frame")
_MASK_SOURCE = "sam2"

KeyedBy = Literal["frame", "track"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Annotations:
    """What ConsisID's files say about one clip; the four tables are just as they stand in the JSON files.

    Attributes:
        name: of the clip, its video's without ".mp4".
        num_frames: T.
        masks: of the `mask_ids` in every frame [T, M, height, width]; None when there are none.
        mask_ids: object ids, increasing.
        size: (height, width) of the masks, (0, 0) without.
    """

    name: str
    num_frames: int
    bbox_data: dict[str, Any]
    corresponding_data: dict[str, dict[str, int]]
    control_sam2_frame: dict[str, dict[str, int]]
    valid_frame: dict[str, dict[str, list[int]]]
    masks: ClipMasks | None = None
    mask_ids: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        check_name(self.name)
        if not all(type(number) is int and 0 < number < 1 << 16 for number in self.mask_ids):
            raise DataError(f"{self.name}: mask ids {self.mask_ids} are not numbers from 1 to 65535")
        if (() if self.masks is None else self.masks.ids) != self.mask_ids:
            raise DataError(f"{self.name}: the masks are not those of the {len(self.mask_ids)} mask ids")

    def mask(self, mask_id: int, frame: int) -> np.ndarray:
        """The mask, bool [H, W], of one object; DataError if there is none."""
        if self.masks is None or mask_id not in self.mask_ids or not 0 <= frame < self.num_frames:
            raise DataError(f"{self.name}: no mask of object {mask_id} in frame {frame}")
        place = frame * len(self.mask_ids) + self.mask_ids.index(mask_id)
        first, end = self.masks.offsets[place : place + 2]
        return decode_rle(self.masks.runs[first:end], self.size)


def check_name(name: str) -> str:
    """`name` itself, fit to be a part of a path; DataError unless it is one plain, visible file name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DataError(f"clip name {name!r} is not a plain file name; rename the clip and its files")
    return name


def join_masks(runs: list[np.ndarray], ids: tuple[int, ...], source: str) -> ClipMasks:
    """Masks of a clip from the run lengths of each, all masks of a frame one after the other."""
    offsets = np.cumsum([0, *map(len, runs)], dtype=np.int64)
    return ClipMasks(np.concatenate([np.zeros(0, np.uint32), *runs]), offsets, ids, source)


def clip_names(folder: Path | str) -> list[str]:
    """Names of the clips annotated in a folder of ConsisID's layout, sorted.

    Raises:
        DataError: there are none.
    """
    names = sorted(file.stem for file in (Path(folder) / "refine_bbox_jsons").glob("*.json"))
    if not names:
        raise DataError(f"{folder}: no refine_bbox_jsons/*.json; give the folder that holds track_masks_data")
    return [check_name(name) for name in names]


def read_annotations(folder: Path | str, name: str, *, num_frames: int) -> Annotations:
    """Read all files about one clip; masks may be missing as a whole, and so may all but the detections.

    Raises:
        DataError: a file is missing, damaged, or says what cannot be; the message names it.
    """
    boxes = Path(folder) / "refine_bbox_jsons" / f"{check_name(name)}.json"
    tracks = Path(folder) / "track_masks_data" / name
    bbox_data = _read_json(boxes)
    try:
        check_detections(key_by_frame(bbox_data, num_frames=num_frames))
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{boxes}: not detections keyed by frame or by track ({error})") from error
    # Clips that were only looked at by the detectors have no folder.
    tables = {table: _read_json(tracks / f"{table}.json") if tracks.is_dir() else {} for table in _TABLES}
    for table, content in tables.items():
        _check_table(tracks / f"{table}.json", content, None if table == "corresponding_data" else num_frames)

    folders = tracks / "tracking_mask_results"
    ids = _mask_ids(folders) if folders.is_dir() else ()
    wanted = {number for regions in tables["corresponding_data"].values() for number in regions.values()}
    if ids and not wanted <= set(ids):
        missing = min(wanted - set(ids))
        raise DataError(f"{folders}: no folder of mask object {missing}, which corresponding_data names")
    masks, size = _read_masks(folders, ids, num_frames) if ids else (None, (0, 0))
    return Annotations(
        name=name,
        num_frames=num_frames,
        bbox_data=bbox_data,
        **tables,
        masks=masks,
        mask_ids=ids,
        size=size,
    )


def write_annotations(
    folder: Path | str, annotations: Annotations, *, keyed_by: KeyedBy | None = None
) -> None:
    """Write the files about one clip; what is there of it must not be.

    Args:
        keyed_by: how bbox_data is keyed; None: as it is. Keyed by track, it has no place for detections that
            belong to nobody and for frames without any.

    Raises:
        DataError: the clip is there already.
    """
    boxes = Path(folder) / "refine_bbox_jsons" / f"{annotations.name}.json"
    tracks = Path(folder) / "track_masks_data" / annotations.name
    for present in filter(Path.exists, (boxes, tracks)):
        raise DataError(f"{present} is there already; remove it or choose another folder")
    for parent in (boxes.parent, tracks.parent):
        parent.mkdir(parents=True, exist_ok=True)
    unfinished = tracks.with_name(f".{tracks.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir()
        for table in _TABLES:
            (unfinished / f"{table}.json").write_bytes(_json_bytes(getattr(annotations, table)))
        _write_masks(unfinished / "tracking_mask_results", annotations)
        os.replace(unfinished, tracks)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    replace_file(boxes, _json_bytes(_keyed(annotations, keyed_by)))


def _keyed(annotations: Annotations, keyed_by: KeyedBy | None) -> dict[str, Any]:
    data = annotations.bbox_data
    if keyed_by is None or (keyed_by == "track") == is_keyed_by_track(data):
        return data
    frames = key_by_frame(data, num_frames=annotations.num_frames)
    return frames if keyed_by == "frame" else key_by_track(frames)


def _read_json(file: Path) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a number")

    try:
        content = json.loads(file.read_bytes(), parse_constant=refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: must be a JSON object, is a {type(content).__name__}")
    return content


def _json_bytes(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=4, allow_nan=False).encode()


def _check_table(file: Path, content: dict[str, Any], num_frames: int | None) -> None:
    """Track -> region -> frame or frames of the clip; mask object ids where `num_frames` is None."""
    lowest, limit = (1, 1 << 16) if num_frames is None else (0, num_frames)
    for track, regions in content.items():
        if not _NUMBER.fullmatch(track) or not isinstance(regions, dict):
            raise DataError(f"{file}: {track!r} must be a track's number with regions below")
        for region, value in regions.items():
            numbers = value if isinstance(value, list) else [value]
            if isinstance(value, list) != (file.stem == "valid_frame"):
                raise DataError(f"{file}: {region!r} of track {track} must be {_form(file.stem)}")
            if not all(type(number) is int and lowest <= number < limit for number in numbers):
                allowed = f"{_form(file.stem)} from {lowest} to {limit - 1}"
                raise DataError(f"{file}: {region!r} of track {track} must be {allowed}")


def _form(table: str) -> str:
    return "a list of whole numbers" if table == "valid_frame" else "a whole number"


def _mask_ids(folders: Path) -> tuple[int, ...]:
    names = [folder.name for folder in folders.iterdir()]
    for name in names:
        if not _NUMBER.fullmatch(name) or not 0 < int(name) < 1 << 16:
            raise DataError(f"{folders / name}: not a mask object's number from 1 to 65535; remove it")
    return tuple(sorted(map(int, names)))


def _read_masks(folders: Path, ids: tuple[int, ...], num_frames: int) -> tuple[ClipMasks, tuple[int, int]]:
    for number in ids:
        files = {file.name for file in (folders / str(number)).iterdir()}
        wrong = sorted(files ^ {_mask_name(frame) for frame in range(num_frames)})
        if wrong:
            state = "is missing" if wrong[0] not in files else f"belongs to none of {num_frames} frames"
            raise DataError(f"{folders / str(number) / wrong[0]} {state}")
    runs: list[np.ndarray] = []
    size: tuple[int, int] | None = None
    for frame in range(num_frames):
        for number in ids:
            mask = _read_mask(folders / str(number) / _mask_name(frame), number)
            size = size or (mask.shape[0], mask.shape[1])
            if mask.shape != size:
                raise DataError(
                    f"{folders / str(number) / _mask_name(frame)}: has (height, width) {mask.shape}, "
                    f"the masks before it {size}"
                )
            runs.append(encode_rle(mask))
    return join_masks(runs, ids, _MASK_SOURCE), size or (0, 0)


def _read_mask(file: Path, number: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(file.read_bytes() or b"\0", np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{file}: not a grey PNG of 8 or 16 bits")
    inside = image == number
    if not (inside | (image == 0)).all():
        raise DataError(f"{file}: has values other than 0 and {number}, the number of its folder")
    return inside


def _write_masks(folders: Path, annotations: Annotations) -> None:
    for number in annotations.mask_ids:
        folder = folders / str(number)
        folder.mkdir(parents=True)
        for frame in range(annotations.num_frames):
            done, png = cv2.imencode(".png", annotations.mask(number, frame).astype(np.uint16) * number)
            assert done, "a 16-bit grey picture is a PNG"
            (folder / _mask_name(frame)).write_bytes(png.tobytes())


def _mask_name(frame: int) -> str:
    return f"annotated_frame_{frame:05d}.png"
