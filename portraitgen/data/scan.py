"""From a tar to its index: find the complete samples, say what is wrong with the others."""

import io
import logging
import math
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from portraitgen.data.archive import Archive, Member
from portraitgen.data.description import SCHEMA_VERSION, read_description
from portraitgen.data.index import ShardIndex, index_path
from portraitgen.data.manifest import read_manifest
from portraitgen.data.sample import DAMAGE, REGIONS, DataError, check_key
from portraitgen.media.bounded import parse_rate
from portraitgen.media.gop import PacketTable, packet_table

log = logging.getLogger(__name__)


class Unusable(NamedTuple):
    """A sample of a shard that cannot be used, and why."""

    key: str
    reason: str


def scan_shard(shard: Path) -> tuple[ShardIndex, list[Unusable]]:
    """Index the complete samples of a tar and list the others.

    A sample is complete when its json, which is its last member, is there. All must have the same landmarks.

    Raises:
        DataError: the shard cannot be opened.
    """
    try:
        archive = Archive(shard)
    except OSError as error:
        raise DataError(f"shard {shard} cannot be opened: {error.strerror}") from error
    return scan_archive(archive)


def scan_archive(archive: Archive) -> tuple[ShardIndex, list[Unusable]]:
    """As `scan_shard`, of one that is open."""
    found: dict[str, dict[str, Member]] = defaultdict(dict)
    for member in archive.members():
        key, _, extension = member.name.partition(".")
        found[key][extension] = member
    entries: list[_Entry] = []
    unusable: list[Unusable] = []
    for key, members in found.items():
        try:
            entries.append(_entry(archive, key, members))
        except DAMAGE as error:
            unusable.append(Unusable(key, str(error) or type(error).__name__))
    # A sample of another landmark scheme than the first would break every batch that it is in.
    for entry in [entry for entry in entries if entry.landmarks != entries[0].landmarks]:
        entries.remove(entry)
        unusable.append(
            Unusable(entry.key, f"has landmarks {entry.landmarks}, the shard {entries[0].landmarks}")
        )
    return _columns(entries, archive.size), unusable


def open_index(shard: Path) -> ShardIndex:
    """The index of a shard: the stored one if it is of this very tar, else scanned, and a line says why.

    Raises:
        DataError: the shard is missing or cannot be opened.
    """
    if not shard.is_file():
        raise DataError(f"shard {shard} does not exist")
    stored, problem = None, "has no index"
    if index_path(shard).is_file():
        try:
            stored = ShardIndex.load(index_path(shard))
        except DataError as error:
            problem = str(error)
    size = shard.stat().st_size
    if stored is not None and int(stored.shard_bytes) == size:
        return stored
    if stored is not None:
        problem = f"is {size} bytes long, its index was made of {int(stored.shard_bytes)}"
    index, unusable = scan_shard(shard)
    manifest = read_manifest(shard)
    expected = f" of {manifest['samples']}" if manifest else f" of {len(stored)}" if stored else ""
    causes = "".join(f"; {key}: {reason}" for key, reason in unusable[:3])
    log.warning(f"shard {shard.name} {problem}: {len(index)}{expected} samples can be used{causes}")
    return index


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One complete sample."""

    key: str
    num_frames: int
    fps: Fraction
    size: tuple[int, int]
    num_tracks: int
    landmarks: tuple[str, int]
    landmarks_offset: int
    scores: Mapping[str, float]
    runs: list[tuple[int, int, int]]
    masks: "_Masks | None"
    mask_columns: list[list[int]]
    identities: list[str | None]
    packets: PacketTable | None
    members: dict[str, Member] = field(repr=False)


class _Masks(NamedTuple):
    """How many masks a sample has in each frame, and where their cuts and their bytes lie in the tar."""

    number: int
    cuts_offset: int
    packed_offset: int


def _entry(archive: Archive, key: str, members: dict[str, Member]) -> _Entry:
    """Read what the index needs; DataError, or one of `DAMAGE`, when the sample is not sound."""
    check_key(key)
    for extension in ("json", "lmk.npz", "tracks.npz"):
        if extension not in members:
            raise DataError(f"{extension} is missing")
    about = read_description(archive.read(members["json"]))
    video, rate = about["video"], parse_rate(about["video"]["fps"]).limit_denominator(100_000)
    num_frames, num_tracks, num_landmarks = video["n"], len(about["tracks"]), about["landmarks"]["num"]
    packets = None
    if "mp4" in members:
        packets = packet_table(archive.read(members["mp4"]), name=key)
        if (len(packets.sizes), packets.height, packets.width) != (num_frames, video["h"], video["w"]):
            raise DataError(
                f"video has {len(packets.sizes)} frames of {packets.width}x{packets.height},"
                f" the json says {num_frames} of {video['w']}x{video['h']}"
            )
        if not rate:
            raise DataError("its json claims a clip of 0 frames a second")
    elif "jpg" not in members:
        raise DataError("neither mp4 nor jpg is there")
    elif num_frames != 1:
        raise DataError(f"its json claims {num_frames} frames of one photo")
    tracks = [about["tracks"][str(track + 1)] for track in range(num_tracks)]
    mask_ids, masks = list(about.get("mask_ids") or ()), None
    if "masks.npz" in members:
        cuts = _array_offset(archive, members["masks.npz"], "off", "<i8", (num_frames * len(mask_ids) + 1,))
        packed = _array_offset(archive, members["masks.npz"], "packed", "|u1", (None,))
        masks = _Masks(len(mask_ids), cuts, packed)
    landmarks = _array_offset(
        archive, members["lmk.npz"], "lmk", "<f4", (num_frames, num_tracks, num_landmarks, 2)
    )
    return _Entry(
        key=key,
        num_frames=num_frames,
        fps=rate,
        size=(video["h"], video["w"]),
        num_tracks=num_tracks,
        landmarks=(str(about["landmarks"]["scheme"]), num_landmarks),
        landmarks_offset=landmarks,
        scores={name: float(value) for name, value in about["scores"].items()},
        runs=[
            (track, start, end)
            for track, regions in enumerate(tracks)
            for start, end in regions["face"]["valid"]
        ],
        masks=masks,
        mask_columns=[
            [
                mask_ids.index(regions[name]["mask_id"]) if "mask_id" in regions.get(name, {}) else -1
                for name in REGIONS
            ]
            for regions in tracks
        ],
        identities=[(about.get("identities") or {}).get(str(person)) for person in range(1, num_tracks + 1)],
        packets=packets,
        members=members,
    )


def _array_offset(
    archive: Archive, member: Member, name: str, dtype: str, shape: tuple[int | None, ...]
) -> int:
    """Where in the tar the raw values of an array of an uncompressed npz begin.

    Raises:
        DataError: it is compressed or of another type or shape (None in `shape` is any length).
    """
    data = archive.read(member)
    with zipfile.ZipFile(io.BytesIO(data)) as container:
        info = container.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED:
        raise DataError(f"{member.name} is compressed; store it uncompressed")
    # The local header of a zip member: 30 bytes, name, extra field; their lengths stand at bytes 26 and 28.
    lengths = np.frombuffer(data, "<u2", count=2, offset=info.header_offset + 26)
    start = info.header_offset + 30 + int(lengths.sum())
    stream = io.BytesIO(data[start : start + info.file_size])
    np.lib.format.read_magic(stream)
    found, fortran, stored = np.lib.format.read_array_header_1_0(stream)
    fits = len(found) == len(shape) and all(s in (None, f) for f, s in zip(found, shape, strict=True))
    if not fits or fortran or stored != np.dtype(dtype):
        raise DataError(f"{member.name} holds {stored} {found}, expected {np.dtype(dtype)} {shape}")
    if math.prod(found) * stored.itemsize > min(len(data) - start, info.file_size) - stream.tell():
        raise DataError(f"{member.name} claims {stored} {found}, more than its bytes")
    return member.offset + start + stream.tell()


def _columns(entries: list[_Entry], shard_bytes: int) -> ShardIndex:
    score_names = sorted({name for entry in entries for name in entry.scores})
    member_names = sorted({name for entry in entries for name in entry.members})
    tables = [entry.packets for entry in entries if entry.packets is not None]
    configurations = sorted({table.extradata for table in tables})
    members = [(name, place) for entry in entries for name, place in entry.members.items()]
    identities = [identity_name for entry in entries for identity_name in entry.identities]
    identity_names = sorted({identity_name for identity_name in identities if identity_name is not None})
    rows = {name: row for row, name in enumerate(identity_names)}
    scheme, num_landmarks = entries[0].landmarks if entries else ("", 0)

    def packet_column(name: str, dtype: type) -> np.ndarray:
        return np.concatenate([getattr(table, name) for table in tables] or [np.empty(0)]).astype(dtype)

    return ShardIndex(
        keys=np.array([entry.key.encode() for entry in entries], dtype=np.bytes_),
        num_frames=np.array([entry.num_frames for entry in entries], np.int32),
        fps=np.array([entry.fps.as_integer_ratio() for entry in entries], np.int32).reshape(-1, 2),
        size=np.array([entry.size for entry in entries], np.int32).reshape(-1, 2),
        num_tracks=np.array([entry.num_tracks for entry in entries], np.int32),
        landmarks_offset=np.array([entry.landmarks_offset for entry in entries], np.int64),
        scores=np.array(
            [[entry.scores.get(name, np.nan) for name in score_names] for entry in entries], np.float32
        ).reshape(len(entries), len(score_names)),
        score_names=np.array(score_names, np.str_),
        runs=np.array(list(chain.from_iterable(entry.runs for entry in entries)), np.int32).reshape(-1, 3),
        run_splits=_splits(len(entry.runs) for entry in entries),
        num_masks=np.array([entry.masks.number if entry.masks else 0 for entry in entries], np.int32),
        mask_cuts_offset=np.array(
            [entry.masks.cuts_offset if entry.masks else 0 for entry in entries], np.int64
        ),
        mask_packed_offset=np.array(
            [entry.masks.packed_offset if entry.masks else 0 for entry in entries], np.int64
        ),
        mask_columns=np.array(
            list(chain.from_iterable(entry.mask_columns for entry in entries)), np.int32
        ).reshape(-1, len(REGIONS)),
        identities=np.array(
            [-1 if identity_name is None else rows[identity_name] for identity_name in identities], np.int32
        ),
        identity_names=np.array(identity_names, np.str_),
        packet_offsets=packet_column("offsets", np.uint32),
        packet_sizes=packet_column("sizes", np.uint32),
        keyframes=packet_column("keyframes", np.bool_),
        packet_splits=_splits(0 if entry.packets is None else entry.num_frames for entry in entries),
        configuration=np.array(
            [
                -1 if entry.packets is None else configurations.index(entry.packets.extradata)
                for entry in entries
            ],
            np.int32,
        ),
        configurations=np.frombuffer(b"".join(configurations), np.uint8),
        configuration_splits=_splits(len(extradata) for extradata in configurations),
        member_names=np.array(member_names, np.str_),
        member_kind=np.array([member_names.index(name) for name, _ in members], np.int32),
        member_offset=np.array([place.offset for _, place in members], np.int64),
        member_size=np.array([place.size for _, place in members], np.int64),
        member_splits=_splits(len(entry.members) for entry in entries),
        landmark_scheme=np.array(scheme),
        num_landmarks=np.array(num_landmarks),
        shard_bytes=np.array(shard_bytes),
        version=np.array(SCHEMA_VERSION),
    )


def _splits(lengths: Any) -> np.ndarray:
    return np.fromiter(accumulate(lengths, initial=0), np.int64)
