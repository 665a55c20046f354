"""The index of one shard: all that choosing and reading frames needs, without opening the tar's members.

data/scan makes it from the tar, once; it is kept beside the shard.
"""

import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from portraitgen.data.archive import Member
from portraitgen.data.description import MAX_LANDMARKS, MAX_PEOPLE, MAX_SIDE, SCHEMA_VERSION
from portraitgen.data.remote.address import Address
from portraitgen.data.sample import DAMAGE, REGIONS, DataError
from portraitgen.media.bounded import read_arrays
from portraitgen.media.files import replace_file
from portraitgen.media.gop import PacketTable


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardIndex:
    """Columns over the S samples of one shard. `*_splits` [S + 1] cut the ragged columns into samples.

    keys              bytes  [S]
    num_frames        i32    [S]
    fps               i32    [S, 2]    numerator, denominator; 0/1 for photos
    size              i32    [S, 2]    height, width
    num_tracks        i32    [S]
    landmarks_offset  i64    [S]       of the raw float32 [T, N, K, 2] in the tar
    scores            f32    [S, C]    NaN where a sample has no such score; names in score_names str [C]
    runs              i32    [R, 3]    track, start, end of each run of valid frames of the face
    num_masks         i32    [S]       M of the sample, 0 without masks
    mask_cuts_offset  i64    [S]       in the tar, of the raw int64 [T * M + 1] that cut the packed masks
    mask_packed_offset i64   [S]       in the tar, of the packed masks
    mask_columns      i32    [N, 3]    of all tracks of all samples, the masks of face, head, person; -1: none
    identities        i32    [N]       of all tracks of all samples, row of identity_names str [I], or -1
    packet_offsets    u32    [P]       in the mp4; P = frames of all clips, photos have none
    packet_sizes      u32    [P]
    keyframes         bool   [P]
    configuration     i32    [S]       row of configurations, -1 for photos
    configurations    u8     [E]       decoder configurations one after another, cut by configuration_splits
    member_kind       i32    [M]       row of member_names str [K]
    member_offset     i64    [M]       in the tar
    member_size       i64    [M]
    landmark_scheme   str    []        one for the whole shard
    num_landmarks     i64    []
    shard_bytes       i64    []        size of the tar that was indexed
    version           i64    []
    """

    keys: np.ndarray
    num_frames: np.ndarray
    fps: np.ndarray
    size: np.ndarray
    num_tracks: np.ndarray
    landmarks_offset: np.ndarray
    scores: np.ndarray
    score_names: np.ndarray
    runs: np.ndarray
    run_splits: np.ndarray
    num_masks: np.ndarray
    mask_cuts_offset: np.ndarray
    mask_packed_offset: np.ndarray
    mask_columns: np.ndarray
    identities: np.ndarray
    identity_names: np.ndarray
    packet_offsets: np.ndarray
    packet_sizes: np.ndarray
    keyframes: np.ndarray
    packet_splits: np.ndarray
    configuration: np.ndarray
    configurations: np.ndarray
    configuration_splits: np.ndarray
    member_names: np.ndarray
    member_kind: np.ndarray
    member_offset: np.ndarray
    member_size: np.ndarray
    member_splits: np.ndarray
    landmark_scheme: np.ndarray
    num_landmarks: np.ndarray
    shard_bytes: np.ndarray
    version: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        return self.keys[row].decode()

    def members(self, row: int) -> dict[str, Member]:
        """Where the members of a sample lie in the tar, by extension."""
        part = slice(self.member_splits[row], self.member_splits[row + 1])
        names = self.member_names[self.member_kind[part]].tolist()
        places = zip(names, self.member_offset[part].tolist(), self.member_size[part].tolist(), strict=True)
        return {name: Member(name, offset, size) for name, offset, size in places}

    def clip_runs(self, row: int) -> np.ndarray:
        """Runs of valid frames of a sample: i32 [R, 3] track, start, end."""
        return self.runs[self.run_splits[row] : self.run_splits[row + 1]]

    def mask_column(self, row: int, track: int, region: str) -> int:
        """Which of a sample's masks is the one of a person's region; -1 if there is none."""
        first = int(self.num_tracks[:row].sum())
        return int(self.mask_columns[first + track, REGIONS.index(region)])

    def has_masks(self, region: str) -> np.ndarray:
        """bool [S]: samples in which everybody has a mask of this region."""
        owner = np.repeat(np.arange(len(self)), self.num_tracks)
        missing = self.mask_columns[:, REGIONS.index(region)] < 0
        return np.bincount(owner, weights=missing, minlength=len(self)) == 0

    def packets(self, row: int) -> PacketTable | None:
        """The packets of a clip's mp4; None for a photo."""
        configuration = int(self.configuration[row])
        if configuration < 0:
            return None
        part = slice(self.packet_splits[row], self.packet_splits[row + 1])
        begin, end = self.configuration_splits[configuration : configuration + 2]
        height, width = self.size[row].tolist()
        return PacketTable(
            offsets=self.packet_offsets[part].astype(np.int64),
            sizes=self.packet_sizes[part].astype(np.int64),
            keyframes=self.keyframes[part],
            extradata=self.configurations[begin:end].tobytes(),
            width=width,
            height=height,
        )

    def save(self, path: Path) -> None:
        buffer = io.BytesIO()
        np.savez(
            buffer, allow_pickle=False, **{field.name: getattr(self, field.name) for field in fields(self)}
        )
        replace_file(path, buffer.getvalue())

    @classmethod
    def load(cls, source: Path | bytes, *, name: str | None = None) -> "ShardIndex":
        """From a file, or from its bytes; DataError, which calls it `name`, when it is not an index of this
        schema version.
        """
        path = name or str(source)
        try:
            columns = read_arrays(source)
        except (OSError, *DAMAGE) as error:
            raise DataError(f"{path} is not an index: {error}") from error
        if columns.get("version") != SCHEMA_VERSION or columns.keys() != {
            field.name for field in fields(cls)
        }:
            raise DataError(f"{path} is of another schema version than {SCHEMA_VERSION}")
        index = cls(**columns)
        try:
            index.check()
        except DAMAGE as error:
            raise DataError(f"{path} is damaged: {error}") from error
        return index

    def check(self) -> None:
        """ValueError unless columns fit each other and lie within the tar: what they claim is then read."""
        samples, shard_bytes = len(self.keys), int(self.shard_bytes)
        people = int(self.num_tracks.sum(dtype=np.int64))
        lengths = {
            **dict.fromkeys(("num_frames", "fps", "size", "num_tracks", "landmarks_offset"), samples),
            **dict.fromkeys(("scores", "num_masks", "mask_cuts_offset", "mask_packed_offset"), samples),
            **dict.fromkeys(("mask_columns", "identities"), people),
            **dict.fromkeys(("packet_sizes", "keyframes"), len(self.packet_offsets)),
            **dict.fromkeys(("member_offset", "member_size"), len(self.member_kind)),
            "configuration": samples,
        }
        for name, length in lengths.items():
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, not {length}")
        for name, column, rows in (
            ("run_splits", self.runs, samples),
            ("packet_splits", self.packet_offsets, samples),
            ("member_splits", self.member_kind, samples),
            ("configuration_splits", self.configurations, len(self.configuration_splits) - 1),
        ):
            splits = getattr(self, name)
            ends = splits.shape == (rows + 1,) and splits[0] == 0 and splits[-1] == len(column)
            if not ends or (np.diff(splits) < 0).any():
                raise ValueError(f"{name} do not cut its column")
        for name, width in (("fps", 2), ("size", 2), ("runs", 3), ("mask_columns", len(REGIONS))):
            if getattr(self, name).shape[1:] != (width,):
                raise ValueError(f"{name} has rows of {getattr(self, name).shape[1:]}, not ({width},)")
        is_clip = self.configuration >= 0
        frames = np.where(is_clip, np.diff(self.packet_splits), 1)
        landmarks = self.num_frames * self.num_tracks.astype(np.int64) * int(self.num_landmarks) * 8
        limits = {
            "num_frames": (self.num_frames == frames).all(),
            "num_tracks": (self.num_tracks >= 1).all(),
            "num_landmarks": 0 <= int(self.num_landmarks) <= MAX_LANDMARKS,
            "size": ((self.size >= 1) & (self.size <= MAX_SIDE)).all(),
            "fps": ((self.fps[:, 1] >= 1) & (self.fps[:, 0] >= is_clip)).all(),
            "landmarks_offset": _within(self.landmarks_offset, landmarks, shard_bytes),
            "member_offset": _within(self.member_offset, self.member_size, shard_bytes),
            "mask_cuts_offset": _within(self.mask_cuts_offset, 0, shard_bytes),
            "mask_packed_offset": _within(self.mask_packed_offset, 0, shard_bytes),
            "num_masks": ((self.num_masks >= 0) & (self.num_masks <= 3 * MAX_PEOPLE)).all(),
            "member_kind": _rows(self.member_kind, 0, len(self.member_names)),
            "identities": _rows(self.identities, -1, len(self.identity_names)),
            "configuration": _rows(self.configuration, -1, len(self.configuration_splits) - 1),
            "runs": self._runs_fit(),
        }
        for name, holds in limits.items():
            if not holds:
                raise ValueError(f"{name} claims what the tar of {shard_bytes} bytes does not hold")

    def _runs_fit(self) -> bool:
        """Whether all runs of valid frames are of people and frames that their samples have."""
        owner = np.repeat(np.arange(len(self)), np.diff(self.run_splits))
        track, start, end = self.runs.T
        fits = (track >= 0) & (track < self.num_tracks[owner]) & (start >= 0) & (start < end)
        return bool((fits & (end <= self.num_frames[owner])).all())


def _within(offset: np.ndarray, size: Any, limit: int) -> bool:
    return bool(((offset >= 0) & (size >= 0) & (offset <= limit - size)).all())


def _rows(column: np.ndarray, first: int, count: int) -> bool:
    return bool(((column >= first) & (column < count)).all())


AnyPath = TypeVar("AnyPath", Path, Address, Path | Address)


def index_path(shard: AnyPath) -> AnyPath:
    """`root/index/NAME.idx.npz` for `root/shards/NAME.tar`."""
    return shard.parent.parent / "index" / f"{shard.stem}.idx.npz"
