"""All shards of a data set together: find them, open their indexes, choose the samples that can be used."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np

from portraitgen.data.clips import ClipWindows
from portraitgen.data.index import ShardIndex
from portraitgen.data.sample import DataError
from portraitgen.data.scan import open_index

log = logging.getLogger(__name__)

# At least `low` and at most `high`; None leaves that side open.
Range = tuple[float | None, float | None]


def find_shards(patterns: str | Sequence[str]) -> list[Path]:
    """Sorted paths of shards, from patterns such as "shards/train-{000000..000127}.tar" or "{a,b}-*.tar".

    Raises:
        DataError: a pattern finds nothing, or a shard that a range names is missing.
    """
    found: set[Path] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for path in map(Path, _expand_braces(str(pattern))):
            if path.is_dir():
                raise DataError(
                    f"data.shards: {path} is a folder; name its shards: '{path}/shards/train-*.tar'"
                )
            names = list(path.parent.glob(path.name)) if path.parent.is_dir() else []
            if not names:
                raise DataError(f"data.shards: no shard matches '{path}' (of '{pattern}')")
            found.update(names)
    if not found:
        raise DataError("data.shards is empty: give a path or pattern such as 'out/shards/train-*.tar'")
    return sorted(found)


def _expand_braces(pattern: str) -> list[str]:
    """Replace {000..127} by its numbers and {a,b} by its words."""
    braces = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    first, last, words = braces.groups()
    choices = words.split(",") if words else [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    head, tail = pattern[: braces.start()], pattern[braces.end() :]
    return list(chain.from_iterable(_expand_braces(head + choice + tail) for choice in choices))


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The N samples of a catalog that have a window and pass the filters, in the order of their shards.

    Attributes:
        shards: int64 [N], number of the shard.
        rows: int64 [N], row in that shard's index.
        size: (H, W) of all of them.
        frame_rate: of all of them, if the sound was asked for, else 0.
    """

    shards: np.ndarray
    rows: np.ndarray
    size: tuple[int, int]
    frame_rate: Fraction = Fraction(0)

    def __len__(self) -> int:
        return len(self.rows)


class Catalog:
    """The shards of a data set with their indexes.

    Raises:
        DataError: no shard matches, a shard cannot be opened, or shards differ in their landmarks.
    """

    def __init__(self, patterns: str | Sequence[str]) -> None:
        self.shards = find_shards(patterns)
        self.indexes = [open_index(shard) for shard in self.shards]
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

    def select(
        self,
        windows: ClipWindows,
        filters: Mapping[str, Range] | None = None,
        *,
        masks: str | None = None,
        audio: bool = False,
        having: Mapping[str, np.ndarray] | None = None,
    ) -> Selection:
        """Samples that have a window and whose scores lie in the ranges of `filters`; with `audio`, a sound.

        {"min_face": (64, None)} takes faces from 64 px; a sample without that score is left out, as is one in
        which somebody has no mask of the region `masks`, and one that is False in a column of `having` (bool
        [samples of all shards], by the name of what it says to be there).

        Raises:
            DataError: none is left, an unknown score, or frame sizes (with `audio`, frame rates) differ.
        """
        passing = self._passing(filters or {})
        if masks is not None:
            masked = np.concatenate([index.has_masks(masks) for index in self.indexes])
            if not masked.any():
                raise DataError(
                    f"data.masks={masks}: none of {len(masked)} samples has masks of the {masks};"
                    " prepare them with masks=hull, ellipse or sam2, or set data.masks=null"
                )
            passing &= masked
        longest = np.concatenate([windows.longest_runs(index) for index in self.indexes])
        if not passing.any():
            raise DataError(f"data.filters {dict(filters or {})} leave none of {len(passing)} samples")
        for name, present in (having or {}).items():
            passing &= present
            if not passing.any():
                raise DataError(f"none of {len(passing)} samples that could be used has {name}")
        if audio:
            passing &= np.concatenate([_has_member(index, "wav") for index in self.indexes])
            if not passing.any():
                raise DataError(
                    f"none of {len(passing)} samples that pass data.filters has sound, and data.audio is set:"
                    " prepare videos that have some"
                )
        usable = passing & (longest >= windows.reach)
        low, high = windows.span
        if not usable.any():
            raise DataError(
                f"no sample has {windows.reach} valid frames in a row (clip_frames {windows.clip_frames},"
                f" stride {windows.stride}) within {low:.0%} to {high:.0%} of the clip: of"
                f" {int(passing.sum())} sample(s) the longest run has {longest[passing].max()}; lower"
                f" data.clip_frames or data.stride, widen the span, or prepare longer clips"
            )
        log.info(
            f"{int(usable.sum())} of {len(usable)} samples in {len(self.shards)} shard(s) can be used,"
            f" from {low:.0%} to {high:.0%} of each"
        )
        shards = np.repeat(np.arange(len(self.indexes)), [len(index) for index in self.indexes])[usable]
        rows = np.concatenate([np.arange(len(index)) for index in self.indexes])[usable]
        sizes = Counter(map(tuple, np.concatenate([index.size for index in self.indexes])[usable].tolist()))
        if len(sizes) > 1:
            counts = ", ".join(f"{count} of {w}x{h}" for (h, w), count in sizes.most_common(4))
            raise DataError(
                f"samples differ in frame size ({counts}): prepare them at one size or filter them"
            )
        ((height, width),) = sizes
        return Selection(shards, rows, (height, width), self._frame_rate(usable) if audio else Fraction(0))

    def _frame_rate(self, usable: np.ndarray) -> Fraction:
        rates = Counter(map(tuple, np.concatenate([index.fps for index in self.indexes])[usable].tolist()))
        if len(rates) > 1:
            counts = ", ".join(f"{count} of {n}/{d}" for (n, d), count in rates.most_common(4))
            raise DataError(
                f"samples differ in frame rate ({counts}), so their sounds differ in length: prepare them at"
                " one rate (prepare.py fps=…)"
            )
        ((numerator, denominator),) = rates
        return Fraction(numerator, denominator)

    def _passing(self, filters: Mapping[str, Range]) -> np.ndarray:
        passing = np.ones(sum(len(index) for index in self.indexes), bool)
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
