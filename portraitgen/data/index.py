"""The index of one shard: all that choosing and reading frames needs, without opening the tar's members.

data/scan makes it from the tar, once; it is kept beside the shard.
"""

import io
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from portraitgen.data.archive import Member
from portraitgen.data.members import SCHEMA_VERSION
from portraitgen.data.sample import DAMAGE, REGIONS, DataError
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
    def load(cls, path: Path) -> "ShardIndex":
        """DataError when the file is not an index of this schema version."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                columns = dict(stored)
        except (OSError, *DAMAGE) as error:
            raise DataError(f"{path} is not an index: {error}") from error
        if columns.get("version") != SCHEMA_VERSION or columns.keys() != {
            field.name for field in fields(cls)
        }:
            raise DataError(f"{path} is of another schema version than {SCHEMA_VERSION}")
        return cls(**columns)


def index_path(shard: Path) -> Path:
    """`root/index/NAME.idx.npz` for `root/shards/NAME.tar`."""
    return shard.parent.parent / "index" / f"{shard.stem}.idx.npz"
