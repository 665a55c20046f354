"""Features on the disk, beside the shards that they were computed from.

root/aux/{name}@{fingerprint}/feature.json        what it is, and of which weights and settings
root/aux/{name}@{fingerprint}/empty.safetensors   of features of captions: the value of an empty one
root/aux/{name}@{fingerprint}/{split}-{n}.tar     one member a sample, as in the shard of that name: the same
                                                  keys in the same order; {key}.npy, or {key}.txt
root/aux/{name}@{fingerprint}/{split}-{n}.idx.npz where the raw values lie; written last: what has one is done
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, load_file, save_file

from portraitgen.data.archive import Shard
from portraitgen.data.features.feature import FaceValues, Feature, Unit, Value, WindowValues
from portraitgen.data.index import AnyPath
from portraitgen.data.manifest import read_manifest, write_json
from portraitgen.data.remote.opened import open_bytes, read_object, source_of
from portraitgen.data.remote.store import Missing, store_of
from portraitgen.data.sample import DAMAGE, DataError
from portraitgen.media.bounded import read_arrays, read_json
from portraitgen.media.files import replace_file, replacing

VERSION = 1

_EMPTY = "empty.safetensors"


@dataclass(frozen=True, slots=True)
class FeatureFacts:
    """What feature.json says. `depends_on` is `Feature.depends_on`, there under the name identity.

    The fingerprint, 8 hex digits, changes with the weights and with every setting.
    """

    name: str
    fingerprint: str
    batch_key: str
    unit: Unit
    depends_on: dict[str, Any]
    version: int = VERSION

    @classmethod
    def of(cls, feature: Feature) -> "FeatureFacts":
        about = (feature.name, feature.batch_key, feature.unit, dict(feature.depends_on()))
        name, batch_key, unit, depends_on = about
        digest = hashlib.sha256(json.dumps([VERSION, *about], sort_keys=True).encode()).hexdigest()
        return cls(name, digest[:8], batch_key, unit, depends_on)

    @classmethod
    def load(cls, folder: Shard) -> "FeatureFacts":
        """DataError when the folder is not one of features of this version."""
        try:
            facts = cls(
                **_renamed(dict(read_json(source_of(folder / "feature.json"))), {"identity": "depends_on"})
            )
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{folder} holds no features ({error}); make them again") from error
        if facts.version != VERSION or facts.folder_name != folder.name:
            raise DataError(
                f"{folder}: feature.json says {facts.folder_name}, version {facts.version}; this program"
                f" reads version {VERSION} in a folder of that name: make them again"
            )
        return facts

    @property
    def folder_name(self) -> str:
        return f"{self.name}@{self.fingerprint}"

    def save(self, root: Path) -> Path:
        """Make the folder of these features in the data set `root`."""
        folder = root / "aux" / self.folder_name
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "feature.json", _renamed(asdict(self), {"depends_on": "identity"}))
        return folder


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureIndex:
    """Columns over the S samples of one shard's features.

    keys          bytes  [S]
    offsets       i64    [S]       in the tar, of the raw values; -1 where the sample has none
    shapes        i64    [S, D]    of the array; a text has its bytes
    dtype         str    []        of the array, JSON of a structured one; "utf-8" for texts
    tar_bytes     i64    []
    tar_sha256    str    []
    shard_sha256  str    []        of the shard that the samples came from

    and of features of windows only:

    windows       i64    [W, 3]    first frame, distance between frames, number of frames
    window_splits i64    [S+1]     windows[window_splits[i]:window_splits[i+1]] are those of sample i, in the
                                   order of their values

    or of features of faces:

    faces         i64    [F, 2]    person and frame
    face_splits   i64    [S+1]     as window_splits
    """

    keys: np.ndarray
    offsets: np.ndarray
    shapes: np.ndarray
    dtype: np.ndarray
    tar_bytes: np.ndarray
    tar_sha256: np.ndarray
    shard_sha256: np.ndarray
    windows: np.ndarray | None = None
    window_splits: np.ndarray | None = None
    faces: np.ndarray | None = None
    face_splits: np.ndarray | None = None

    @classmethod
    def load(cls, tar: Shard) -> "FeatureIndex":
        """The index of a tar of features.

        Raises:
            DataError: it is not there, or the tar is not the one that it was made of.
        """
        path = feature_index_path(tar)
        try:
            index = cls(**read_arrays(source_of(path)))
            size = tar.stat().st_size if isinstance(tar, Path) else open_bytes(tar).size
            index.check(size)
        except (OSError, *DAMAGE) as error:
            raise DataError(f"features {tar} are not finished or damaged ({error})") from error
        if size != int(index.tar_bytes):
            raise DataError(f"features {tar} have {size} bytes and had {int(index.tar_bytes)}")
        return index

    def check(self, tar_bytes: int) -> None:
        """ValueError unless its columns fit each other and lie within a tar of so many bytes."""
        samples = len(self.keys)
        if self.offsets.shape != (samples,) or self.shapes.ndim != 2 or len(self.shapes) != samples:
            raise ValueError("its columns differ in length")
        if (self.offsets > tar_bytes).any() or (self.shapes < 0).any() or (self.shapes > tar_bytes).any():
            raise ValueError("it claims what the tar does not hold")
        for splits, column in ((self.window_splits, self.windows), (self.face_splits, self.faces)):
            if (splits is None) != (column is None):
                raise ValueError("parts of it are missing")
            if splits is None or column is None:
                continue
            ends = splits.shape == (samples + 1,) and splits[0] == 0 and splits[-1] == len(column)
            if not ends or (np.diff(splits) < 0).any() or (column < 0).any():
                raise ValueError("its windows or faces are damaged")


def feature_index_path(tar: AnyPath) -> AnyPath:
    return tar.parent / f"{tar.stem}.idx.npz"


def feature_folders(root: Shard) -> set[str]:
    """Names of the folders of features in a data set; none where a server does not say what it has."""
    folder = root / "aux"
    if isinstance(folder, Path):
        return {each.name for each in folder.glob("*@*") if each.is_dir()}
    try:
        return {each.name for each in store_of(folder).children(folder) if "@" in each.name}
    except Missing:
        return set()


def feature_tar(folder: AnyPath, shard: Shard) -> AnyPath:
    """Where the features of a shard lie."""
    return folder / shard.name


def is_finished(folder: Path, shard: Path) -> bool:
    """Whether the features of a shard are whole, and of this very shard."""
    try:
        index = FeatureIndex.load(feature_tar(folder, shard))
    except DataError:
        return False
    return str(index.shard_sha256) == shard_sha256(shard)


def shard_sha256(shard: Shard) -> str:
    """Of a shard, as its manifest says.

    Raises:
        DataError: it has no manifest.
    """
    manifest = read_manifest(shard)
    if manifest is None or "sha256" not in manifest:
        raise DataError(f"shard {shard} has no manifest, so it is not finished; prepare it again")
    return str(manifest["sha256"])


def write_features(folder: Path, shard: Path, values: Iterable[tuple[str, Value | None]]) -> None:
    """Write the features of a shard: key and value (None: there is none) of its samples, in their order.

    Equal values give equal bytes. A tar without an index is not finished; the index is written last.

    Raises:
        DataError: values differ in dtype or number of axes.
    """
    target = feature_tar(folder, shard)
    feature_index_path(target).unlink(missing_ok=True)
    for leftover in folder.glob(f".{shard.stem}.*.tmp"):
        leftover.unlink(missing_ok=True)
    keys: list[bytes] = []
    offsets: list[int] = []
    shapes: list[tuple[int, ...]] = []
    kinds: set[tuple[str, int]] = set()
    windows: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    with replacing(target) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, value in values:
                keys.append(key.encode())
                windows.append(value.windows if isinstance(value, WindowValues) else np.zeros((0, 3)))
                faces.append(value.faces if isinstance(value, FaceValues) else np.zeros((0, 2)))
                if isinstance(value, WindowValues | FaceValues):
                    assert len(value[0]) == len(value.values) > 0
                    value = value.values
                if value is None:
                    offsets.append(-1)
                    shapes.append(())
                    continue
                data, header, shape, dtype = _as_member(value)
                kinds.add((dtype, len(shape)))
                entry = tarfile.TarInfo(f"{key}.{'txt' if dtype == 'utf-8' else 'npy'}")
                entry.size = len(data)
                offsets.append(tar.offset + tarfile.BLOCKSIZE + header)
                shapes.append(shape)
                tar.addfile(entry, io.BytesIO(data))
        if len(kinds) > 1:
            raise DataError(f"{folder.name} of {shard.name}: values differ in type: {sorted(kinds)}")
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.path.getsize(temporary)
    dtype, axes = next(iter(kinds), ("none", 0))
    window_columns, face_columns = _joined(windows), _joined(faces)
    index = FeatureIndex(
        keys=np.array(keys, np.bytes_),
        offsets=np.array(offsets, np.int64),
        shapes=np.array([shape or (0,) * axes for shape in shapes], np.int64).reshape(len(keys), axes),
        dtype=np.array(dtype),
        tar_bytes=np.array(size),
        tar_sha256=np.array(digest),
        shard_sha256=np.array(shard_sha256(shard)),
        windows=window_columns[0],
        window_splits=window_columns[1],
        faces=face_columns[0],
        face_splits=face_columns[1],
    )
    buffer = io.BytesIO()
    found = {field.name: getattr(index, field.name) for field in fields(index)}
    columns = {name: column for name, column in found.items() if column is not None}
    np.savez(buffer, allow_pickle=False, **columns)
    replace_file(feature_index_path(target), buffer.getvalue())


def _joined(places: list[np.ndarray]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Those of all samples and where each one's begin; None for none at all."""
    splits = np.cumsum([0, *map(len, places)], dtype=np.int64)
    return (np.concatenate(places).astype(np.int64), splits) if splits[-1] else (None, None)


def has_empty(folder: Shard) -> bool:
    """Whether the value of an empty caption lies there."""
    if isinstance(folder, Path):
        return (folder / _EMPTY).is_file()
    try:
        read_object(folder / _EMPTY)
    except Missing:
        return False
    return True


def write_empty(folder: Path, value: np.ndarray) -> None:
    """Write the value of an empty caption beside those of the samples."""
    with replacing(folder / _EMPTY) as temporary:
        save_file({"empty": np.ascontiguousarray(value)}, temporary)


def read_empty(folder: Shard) -> np.ndarray:
    """What `write_empty` wrote; DataError when it is damaged."""
    try:
        stored = source_of(folder / _EMPTY)
        return (load(stored) if isinstance(stored, bytes) else load_file(stored))["empty"]
    except (OSError, KeyError, SafetensorError) as error:
        raise DataError(f"{folder / _EMPTY} is damaged ({error}); remove it and compute it again") from error


def _as_member(value: np.ndarray | str) -> tuple[bytes, int, tuple[int, ...], str]:
    """Bytes of a member, where in them the raw values begin, their shape and dtype."""
    if isinstance(value, str):
        text = value.encode()
        return text, 0, (len(text),), "utf-8"
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(value), allow_pickle=False)
    data = buffer.getvalue()
    return data, len(data) - value.nbytes, value.shape, _dtype_text(value.dtype)


def _dtype_text(dtype: np.dtype) -> str:
    if dtype.names is None:
        return dtype.str
    fields = [(name, dtype[name].base.str, list(dtype[name].shape)) for name in dtype.names]
    return json.dumps(fields)


def dtype_of(text: str) -> np.dtype:
    """What `FeatureIndex.dtype` says.

    Raises:
        DataError: it is none, or one of objects.
    """
    try:
        if text.startswith("["):
            dtype = np.dtype([(name, kind, tuple(shape)) for name, kind, shape in json.loads(text)])
        else:
            dtype = np.dtype(text)
    except (ValueError, TypeError) as error:
        raise DataError(f"features of dtype {text!r}: no such dtype ({error}); compute them anew") from error
    if dtype.hasobject:
        raise DataError(f"features of dtype {text!r}: objects are not read")
    return dtype


def _renamed(content: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in content.items()}
