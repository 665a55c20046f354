"""All shards of a data set together: find them, open their indexes, ask them about their samples."""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from portraitgen.data.archive import Shard
from portraitgen.data.index import ShardIndex
from portraitgen.data.remote.address import PIPE, Address, is_address, local_path
from portraitgen.data.remote.settings import RemoteShards
from portraitgen.data.remote.shards import find_addresses, open_indexes
from portraitgen.data.sample import DataError
from portraitgen.data.scan import open_index

# At least `low` and at most `high`; None leaves that side open.
Range = tuple[float | None, float | None]


_MOST_NUMBERS = 1_000_000
"""Of a range in a pattern; its names are written out."""


def find_shards(patterns: str | Sequence[str]) -> list[Path]:
    """Paths of shards on a disk, see `find_all_shards`.

    Raises:
        DataError: a pattern finds nothing, or is an address.
    """
    found = find_all_shards(patterns)
    for shard in found:
        if isinstance(shard, Address):
            raise DataError(f"{shard} is an address; here shards on a disk are needed: copy them to one")
    return [shard for shard in found if isinstance(shard, Path)]


def find_all_shards(patterns: str | Sequence[str], remote: RemoteShards | None = None) -> list[Shard]:
    """Sorted paths of shards, from patterns such as "shards/train-{000000..000127}.tar" or "{a,b}-*.tar".

    After them the addresses, of "s3://bucket/shards/train-*.tar" and the like; see data/remote.

    Args:
        remote: how addresses are read.

    Raises:
        DataError: a pattern finds nothing, or a shard that a range names is missing.
    """
    found: set[Path] = set()
    elsewhere: set[Address] = set()
    remote = remote or RemoteShards()
    if isinstance(patterns, Mapping):
        raise DataError("data.shards is a mapping: give a pattern, or a list of them")
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for name in map(local_path, _expand_braces(str(pattern))):
            if name.startswith(PIPE) and not str(pattern).startswith(PIPE):
                # Whoever looks for commands among settings sees the pattern.
                raise DataError(f"data.shards: {PIPE} stands at the beginning of a pattern alone")
            if is_address(name):
                elsewhere.update(find_addresses(name, remote))
                continue
            path = Path(name)
            if path.is_dir():
                raise DataError(
                    f"data.shards: {path} is a folder; name its shards: '{path}/shards/train-*.tar'"
                )
            names = list(path.parent.glob(path.name)) if path.parent.is_dir() else []
            if not names:
                raise DataError(f"data.shards: no shard matches '{path}' (of '{pattern}')")
            found.update(names)
    if not found and not elsewhere:
        raise DataError("data.shards is empty: give a path or pattern such as 'out/shards/train-*.tar'")
    return [*sorted(found), *sorted(elsewhere)]


def _expand_braces(pattern: str) -> list[str]:
    """Replace {000..127} by its numbers and {a,b} by its words."""
    braces = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    first, last, words = braces.groups()
    if not words and int(last) - int(first) >= _MOST_NUMBERS:
        raise DataError(f"data.shards: '{pattern}' stands for more than {_MOST_NUMBERS:,} shards")
    choices = words.split(",") if words else [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    head, tail = pattern[: braces.start()], pattern[braces.end() :]
    return list(chain.from_iterable(_expand_braces(head + choice + tail) for choice in choices))


class Catalog:
    """The shards of a data set with their indexes.

    Args:
        patterns: see `find_all_shards`.
        remote: how addresses among them are read.

    Raises:
        DataError: no shard matches, a shard cannot be opened, or shards differ in their landmarks.
    """

    def __init__(self, patterns: str | Sequence[str], remote: RemoteShards | None = None) -> None:
        self.remote = remote or RemoteShards()
        self.shards = find_all_shards(patterns, self.remote)
        here = [shard for shard in self.shards if isinstance(shard, Path)]
        elsewhere = [shard for shard in self.shards if isinstance(shard, Address)]
        self.indexes = [open_index(shard) for shard in here]
        self.is_remote = bool(elsewhere)
        """Whether some lie elsewhere, so that it is worth while to fetch ahead."""
        if elsewhere:
            self.indexes += open_indexes(elsewhere)
        filled = [(s, i) for s, i in zip(self.shards, self.indexes, strict=True) if len(i)]
        if not filled:
            raise DataError(
                f"no sample of {len(self.shards)} shard(s) can be used, {self.shards[0]} being the first"
            )
        self.landmark_scheme, self.num_landmarks = _landmarks(filled[0][1])
        for shard, index in filled:
            if _landmarks(index) != (self.landmark_scheme, self.num_landmarks):
                scheme, number = _landmarks(index)
                raise DataError(
                    f"shards differ in their landmarks: {filled[0][0].name} has {self.num_landmarks} of"
                    f" {self.landmark_scheme}, {shard.name} has {number} of {scheme}; train on one kind"
                )

    def __len__(self) -> int:
        """Samples of all shards."""
        return sum(len(index) for index in self.indexes)

    def column(self, name: str) -> np.ndarray:
        """A column of the indexes that has one row a sample, over all shards."""
        return np.concatenate([getattr(index, name) for index in self.indexes])

    def has_member(self, name: str) -> np.ndarray:
        """bool [N]: samples with a member of that extension."""
        return np.concatenate([_has_member(index, name) for index in self.indexes])

    def has_masks(self, region: str) -> np.ndarray:
        """bool [N]: samples in which everybody has a mask of this region."""
        return np.concatenate([index.has_masks(region) for index in self.indexes])

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Number of the shard and row in its index, each int64 [N], of the samples of all shards."""
        lengths = [len(index) for index in self.indexes]
        return np.repeat(np.arange(len(lengths)), lengths), np.concatenate([np.arange(n) for n in lengths])

    def passing(self, filters: Mapping[str, Range]) -> np.ndarray:
        """bool [N]: samples whose scores lie in the ranges of `filters`.

        {"min_face": (64, None)} takes faces from 64 px; a sample without that score does not pass.

        Raises:
            DataError: no sample passes, or no shard has such a score.
        """
        passing = np.ones(len(self), bool)
        known = sorted({str(name) for index in self.indexes for name in index.score_names})
        for name, (low, high) in filters.items():
            if name not in known:
                raise DataError(
                    f"data.filters.{name}: no shard has this score; there are: {', '.join(known) or 'none'}"
                )
            values = np.concatenate([_scores(index, name) for index in self.indexes])
            # NaN, for a sample without this score, compares false.
            passing &= (values >= (-np.inf if low is None else low)) & (
                values <= (np.inf if high is None else high)
            )
        if not passing.any():
            raise DataError(f"data.filters {dict(filters)} leave none of {len(passing)} samples")
        return passing


def _landmarks(index: ShardIndex) -> tuple[str, int]:
    return str(index.landmark_scheme), int(index.num_landmarks)


def _scores(index: ShardIndex, name: str) -> np.ndarray:
    column = np.flatnonzero(index.score_names == name)
    return index.scores[:, column[0]] if len(column) else np.full(len(index), np.nan, np.float32)


def _has_member(index: ShardIndex, name: str) -> np.ndarray:
    """bool [S]: which samples of a shard have a member of that extension."""
    owner = np.repeat(np.arange(len(index)), np.diff(index.member_splits))
    found = np.zeros(len(index), bool)
    found[owner[index.member_names[index.member_kind] == name]] = True
    return found
