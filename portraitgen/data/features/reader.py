"""Read features of windows in place: twelve frames of latents cost the bytes of twelve frames."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from portraitgen.data.archive import Member, OpenArchives, Place, Shard
from portraitgen.data.batch import Field
from portraitgen.data.catalog import Catalog
from portraitgen.data.features.store import (
    FeatureFacts,
    FeatureIndex,
    dtype_of,
    feature_folders,
    feature_tar,
    has_empty,
    read_empty,
    shard_sha256,
)
from portraitgen.data.index import AnyPath
from portraitgen.data.sample import DataError


class FeatureKind(NamedTuple):
    """What the values are: `shape` of one frame's, window's, person's, token's or sample's, () for texts
    and for faces, whose dtype is structured."""

    batch_key: str
    unit: str
    shape: tuple[int, ...]
    dtype: np.dtype


class FeatureReader:
    """One feature of all samples of a catalog.

    Args:
        catalog: the shards.
        name: of the feature, "vae"; or "vae@1a2b3c4d", which is needed where there are several.

    Raises:
        DataError: there is no such feature of a shard, or it was not made of this very shard.
    """

    def __init__(self, catalog: Catalog, name: str) -> None:
        self.name = _resolved(catalog.shards, name)
        self._catalog = catalog
        tars = [feature_tar(_folder(shard, self.name), shard) for shard in catalog.shards]
        self._facts = FeatureFacts.load(tars[0].parent)
        self._folder = tars[0].parent
        keys = [index.keys for index in catalog.indexes]
        with ThreadPoolExecutor(catalog.remote.connections if catalog.is_remote else 1) as pool:
            self._indexes = list(pool.map(_checked_index, tars, catalog.shards, keys))
        self._archives = OpenArchives(tars)
        self.kind = self._kind()

    @property
    def depends_on(self) -> Mapping[str, Any]:
        """The weights and settings that made it, see `Feature.depends_on`."""
        return self._facts.depends_on

    def has_values(self) -> np.ndarray:
        """bool [samples of all shards]: those that the feature could be computed of."""
        return np.concatenate([index.offsets >= 0 for index in self._indexes])

    @property
    def restricts_windows(self) -> bool:
        """Whether windows may begin at some frames only, those of `window_starts`: where values are of
        windows, these are all there are. Values of frames, people and samples are there for every window.
        """
        return self.kind.unit == "window"

    def window_starts(self, shard: int, row: int) -> np.ndarray:
        """bool [T]: frames of a sample at which a window may begin."""
        num_frames = int(self._catalog.indexes[shard].num_frames[row])
        if not self.restricts_windows:
            return np.ones(num_frames, bool)
        starts = np.zeros(num_frames, bool)
        starts[self._windows(shard, row)[:, 0]] = True
        return starts

    def faces(self, shard: int, row: int) -> np.ndarray:
        """int64 [F, 2]: person and frame of the faces of a sample that there are values of."""
        index = self._indexes[shard]
        if index.faces is None or index.face_splits is None:
            return np.zeros((0, 2), np.int64)
        return index.faces[index.face_splits[row] : index.face_splits[row + 1]]

    def check_windows(self, clip_frames: int, strides: Sequence[int]) -> None:
        """DataError, naming the settings, unless windows of this kind are those that values are of."""
        if not self.restricts_windows:
            return
        stride, frames = self._window_kind()
        if (clip_frames, *strides) != (frames, stride):
            raise DataError(
                f"data.examples.features: {self.name} is of windows of {frames} frames, {stride} apart: set"
                f" data.examples.clip_frames={frames} and data.examples.stride={stride}, or compute it for"
                " other windows"
            )

    def window(self, shard: int, row: int, number: int) -> np.ndarray:
        """int64 [n]: frames of a sample's window of that number."""
        start, stride, frames = self._windows(shard, row)[number].tolist()
        return start + stride * np.arange(frames, dtype=np.int64)

    def _windows(self, shard: int, row: int) -> np.ndarray:
        index = self._indexes[shard]
        if index.windows is None or index.window_splits is None:
            return np.zeros((0, 3), np.int64)
        return index.windows[index.window_splits[row] : index.window_splits[row + 1]]

    def _window_kind(self) -> tuple[int, int]:
        """Distance between frames and number of frames of all windows."""
        found = {
            tuple(kind)
            for index in self._indexes
            if index.windows is not None
            for kind in np.unique(index.windows[:, 1:], axis=0).tolist()
        }
        if len(found) != 1:
            raise DataError(f"{self.name}: windows of several kinds {sorted(found)}; compute it anew")
        ((stride, frames),) = found
        return stride, frames

    def places(self, shard: int, row: int, track: int, frames: np.ndarray) -> list[Place]:
        """Where the values lie that an example of these frames of a person reads, those of its window first.

        Nothing of faces: which of them is chosen later.
        """
        index = self._indexes[shard]
        shape, offset = index.shapes[row].tolist(), int(index.offsets[row])
        unit = self.kind.unit
        if offset < 0 or unit == "face":
            return []
        if unit == "text":
            return [Place(self._archives[shard], offset, offset + shape[0])]
        chosen = {"frame": frames, "person": np.array([track])}.get(unit, np.arange(shape[0]))
        if unit == "window":
            chosen = np.flatnonzero(self._windows(shard, row)[:, 0] == frames[0])
        return self._archives[shard].row_places(offset, prod(shape[1:]) * self.kind.dtype.itemsize, chosen)

    def values(self, shard: int, row: int, places: np.ndarray | int | slice) -> np.ndarray:
        """Values of frames (or a window, a person, tokens) of a sample; only their bytes are read."""
        index = self._indexes[shard]
        offset, dtype = int(index.offsets[row]), self.kind.dtype
        length, *shape = index.shapes[row].tolist()
        if offset < 0:
            raise DataError(f"has no {self.name}")
        chosen = np.arange(length)[places]
        rows = np.atleast_1d(chosen)
        data = self._archives[shard].rows(offset, prod(shape) * dtype.itemsize, rows)
        return data.view(dtype).reshape((*np.shape(chosen), *shape))[()]

    def fields(self, clip_frames: int) -> list[tuple[str, Field]]:
        """What it adds to the tensors of a batch of windows of so many frames."""
        key, unit, shape, dtype = self.kind
        if unit == "text":
            return []
        if unit == "face":
            parts = [(name, dtype[name]) for name in dtype.names or ()]
            known = [(name, Field(part.shape, part.base)) for name, part in parts]
            return [*known, (f"{key}_index", Field((), np.dtype(np.int64)))]
        if unit in ("person", "window", "sample"):
            return [(key, Field(shape, dtype))]
        if unit == "tokens":
            length = self._max_tokens
            return [(key, Field((length, *shape), dtype)), (_mask_key(key), Field((length,), np.dtype(bool)))]
        return [(key, Field((clip_frames, *shape), dtype)), (f"reference_{key}", Field(shape, dtype))]

    def fill(
        self,
        shard: int,
        row: int,
        track: int,
        frames: np.ndarray,
        reference: int | None,
        targets: dict[str, np.ndarray],
    ) -> dict[str, str]:
        """Write a window's values to their places in a batch; returns its texts, by name.

        Raises:
            DataError: the sample has none.
        """
        key, unit, _, _ = self.kind
        assert unit != "face", "which of them is not for the feature to say: `fill_face`"
        if unit == "text":
            return {key: self.text(shard, row)}
        if self.of_sample:
            self.fill_sample(shard, row, targets)
            return {}
        if unit == "window":
            (number,) = np.flatnonzero(self._windows(shard, row)[:, 0] == frames[0]).tolist()
            targets[key][...] = self.values(shard, row, number)
        else:
            targets[key][...] = self.values(shard, row, track if unit == "person" else _evenly(frames))
        if unit == "frame" and reference is not None:
            targets[f"reference_{key}"][...] = self.values(shard, row, reference)
        return {}

    def fill_face(self, shard: int, row: int, number: int, targets: dict[str, np.ndarray]) -> None:
        """Write what is known of one of a sample's faces, by its place in `faces`, and the frame it is
        from.
        """
        value = self.values(shard, row, number)
        for name in self.kind.dtype.names or ():
            targets[name][...] = value[name]
        targets[f"{self.kind.batch_key}_index"][...] = self.faces(shard, row)[number, 1]

    @property
    def of_sample(self) -> bool:
        """Whether a value is of the whole sample, whoever and whatever of it is shown: `fill_sample`."""
        return self.kind.unit in ("sample", "tokens")

    def fill_sample(self, shard: int, row: int, targets: dict[str, np.ndarray]) -> None:
        """Write a sample's value to its places in a batch; DataError if it has none."""
        self._put(self.values(shard, row, slice(None)), targets)

    def empty(self) -> dict[str, np.ndarray]:
        """What stands in a batch for an empty caption, batch axis 1: `empty_` before the names of `fields`.

        Nothing for features that are not of captions.
        """
        if not self.of_sample or not has_empty(self._folder):
            return {}
        targets = {name: np.empty(shape, dtype) for name, (shape, dtype) in self.fields(0)}
        self._put(read_empty(self._folder), targets)
        return {f"empty_{name}": value[None] for name, value in targets.items()}

    def text(self, shard: int, row: int) -> str:
        """The text of a sample."""
        index = self._indexes[shard]
        place = Member("", int(index.offsets[row]), int(index.shapes[row, 0]) if index.shapes.size else 0)
        if place.offset < 0:
            raise DataError(f"has no {self.name}")
        return bytes(self._archives[shard].read(place)).decode()

    @property
    def _max_tokens(self) -> int:
        return int(self._facts.depends_on["max_tokens"])

    def _put(self, value: np.ndarray, targets: dict[str, np.ndarray]) -> None:
        """Write the value of a sample; tokens with zeros after them and a mask of which there are."""
        key = self.kind.batch_key
        if self.kind.unit == "sample":
            targets[key][...] = value
            return
        count = len(value)
        targets[key][:count], targets[key][count:] = value, 0
        targets[_mask_key(key)][:count], targets[_mask_key(key)][count:] = True, False

    def _kind(self) -> FeatureKind:
        key, unit = self._facts.batch_key, self._facts.unit
        if unit == "text":
            return FeatureKind(key, unit, (), np.dtype(np.uint8))
        filled = [index for index in self._indexes if (index.offsets >= 0).any()]
        found = {
            (str(index.dtype), tuple(shape if unit == "sample" else shape[1:]))
            for index in filled
            for shape in np.unique(index.shapes[index.offsets >= 0], axis=0).tolist()
        }
        if len(found) != 1:
            kinds = ", ".join(f"{dtype} {list(shape)}" for dtype, shape in sorted(found)) or "none at all"
            raise DataError(f"{self.name}: samples have values of several kinds ({kinds}): use one size")
        ((dtype, shape),) = found
        return FeatureKind(key, unit, shape, dtype_of(dtype))


def empty_values(features: Iterable[FeatureReader]) -> dict[str, Tensor]:
    """What all of them have for an empty caption, see `FeatureReader.empty`."""
    return {name: torch.from_numpy(value) for each in features for name, value in each.empty().items()}


def _mask_key(key: str) -> str:
    return f"{key.removesuffix('_embeds')}_mask"


def _evenly(frames: np.ndarray) -> np.ndarray | slice:
    """Frames as a slice where they are evenly spaced: their values are then copied once, not twice."""
    steps = np.diff(frames)
    if len(steps) and steps[0] > 0 and (steps == steps[0]).all():
        return slice(int(frames[0]), int(frames[-1]) + 1, int(steps[0]))
    return frames


def _folder(shard: AnyPath, name: str) -> AnyPath:
    return shard.parent.parent / "aux" / name


def _resolved(shards: Sequence[Shard], name: str) -> str:
    """`name` with its fingerprint; DataError unless every data set of the shards has it."""
    roots: list[Shard] = sorted({shard.parent.parent for shard in shards}, key=str)
    present = [feature_folders(root) for root in roots]
    if "@" in name and not any(present):
        return name  # a server may not say what it has; whether it has this one is seen in a moment
    matching = sorted({each for each in set.intersection(*present) if name in (each, each.partition("@")[0])})
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise DataError(
            f"data.examples.features: there are several {name} ({', '.join(matching)}): name one of them"
        )
    lacking = next(
        (root for root, there in zip(roots, present, strict=True) if not _among(name, there)), roots[0]
    )
    known = ", ".join(sorted(present[roots.index(lacking)])) or "none"
    raise DataError(
        f"data.examples.features: {lacking} has no {name} that all shards share (there: {known}); run:"
        f" python prepare.py features out={lacking} 'features=[{name.partition('@')[0]}]'"
    )


def _among(name: str, folders: set[str]) -> bool:
    return any(name in (each, each.partition("@")[0]) for each in folders)


def _checked_index(tar: Shard, shard: Shard, keys: np.ndarray) -> FeatureIndex:
    index = FeatureIndex.load(tar)
    if str(index.shard_sha256) != shard_sha256(shard) or not np.array_equal(index.keys, keys):
        raise DataError(
            f"features {tar} were computed from another {shard.name}: run prepare.py features again,"
            " which computes them anew"
        )
    return index
