"""Which samples of a catalog can be used for what is asked of them; the others are counted, by cause."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from portraitgen.data.catalog import Catalog, Range
from portraitgen.data.sample import REGIONS, DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The N samples of a catalog that can be used, in the order of their shards.

    Attributes:
        catalog: they are from.
        shards: int64 [N], number of the shard.
        rows: int64 [N], row in that shard's index.
        buckets: int64 [N], which of several layouts a batch of them has; 0 everywhere where there is one.
    """

    catalog: Catalog
    shards: np.ndarray
    rows: np.ndarray
    buckets: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, sample: int) -> tuple[int, int]:
        """Shard and row of a sample."""
        return int(self.shards[sample]), int(self.rows[sample])

    def column(self, name: str) -> np.ndarray:
        """A column of the indexes for these samples; see ShardIndex."""
        starts = np.cumsum([0, *(len(index) for index in self.catalog.indexes)])
        return self.catalog.column(name)[starts[self.shards] + self.rows]

    def frame_size(self) -> tuple[int, int]:
        """(H, W) of all of them; DataError where they differ."""
        ((height, width),) = self._only(
            "size",
            "frame size",
            "{1}x{0}",
            "prepare them at one size, filter them, or set data.examples.size",
        )
        return height, width

    def frame_rate(self) -> Fraction:
        """Frames a second of all of them; DataError where they differ."""
        cure = "so their sounds differ in length: prepare them at one rate (prepare.py fps=…)"
        ((numerator, denominator),) = self._only("fps", "frame rate", "{0}/{1}", cure)
        return Fraction(numerator, denominator)

    def _only(self, name: str, what: str, form: str, cure: str) -> list[tuple[int, int]]:
        found = Counter(map(tuple, self.column(name).tolist()))
        if len(found) > 1:
            counts = ", ".join(f"{n} of {form.format(*value)}" for value, n in found.most_common(4))
            raise DataError(f"samples differ in {what} ({counts}), {cure}")
        return list(found)


class Candidates:
    """The samples of a catalog, fewer with each thing that they are to have.

    Raises:
        DataError: no sample passes `filters`.
    """

    def __init__(self, catalog: Catalog, filters: Mapping[str, Range]) -> None:
        self.catalog = catalog
        self.left = catalog.passing(filters)
        self.missing = {"what data.filters asks for": int((~self.left).sum())}

    def need(self, what: str, present: np.ndarray, otherwise: str) -> None:
        """Leave out those that have not `what`, by bool [samples of all shards].

        Raises:
            DataError: none is left; the message says `otherwise`, with {count} for those that there were.
        """
        before = int(self.left.sum())
        self.left = self.left & present
        if not self.left.any():
            raise DataError(otherwise.format(count=before))
        self.missing[what] = before - int(self.left.sum())

    def need_masks(self, region: str | None, *, setting: str = "masks") -> None:
        """Leave out those in which somebody has no mask of a region; None leaves out nothing."""
        if region is not None:
            self.need(
                f"masks of the {region}",
                self.catalog.has_masks(region),
                f"data.examples.{setting}={region}: none of {{count}} samples has masks of the {region};"
                f" prepare them with masks=hull, ellipse or sam2, or ask for none (data.examples.{setting})",
            )

    def need_captions(self) -> None:
        self.need(
            "a caption",
            self.catalog.has_member("txt"),
            "data.examples.captions=true: none of {count} samples has a caption; prepare them with x.txt"
            " beside x.mp4, or with labels=, or use the feature caption",
        )

    def need_features(self, present: Mapping[str, np.ndarray]) -> None:
        """Leave out those that are False in a column, by the feature's name."""
        for name, column in present.items():
            self.need(name, column, f"none of {{count}} samples that could be used has {name}")

    def selection(self, used: str, buckets: np.ndarray | None = None) -> Selection:
        """Those that are left; a line says what they are `used` for and what the others have not.

        Args:
            buckets: int [samples of all shards].
        """
        lacking = ", ".join(f"{count} without {what}" for what, count in self.missing.items() if count)
        log.info(
            f"{int(self.left.sum())} of {len(self.left)} samples in {len(self.catalog.shards)} shard(s) can"
            f" be used, {used}" + (f"; left out: {lacking}" if lacking else "")
        )
        shards, rows = self.catalog.places()
        chosen = np.zeros(len(rows), np.int64) if buckets is None else buckets
        return Selection(self.catalog, shards[self.left], rows[self.left], chosen[self.left])


def check_region(setting: str, region: str | None) -> None:
    """DataError, naming the setting, unless it is a region of a person or None."""
    if region is not None and region not in REGIONS:
        raise DataError(f"data.examples.{setting}={region}: give one of {', '.join(REGIONS)}, or null")
