"""Write samples into WebDataset tar shards, each with its index and its manifest (schema v1).

root/shards/{split}-{000000}.tar          samples; USTAR, mtime 0, fixed member order
root/index/{split}-{000000}.idx.npz       data/index
root/manifests/{split}-{000000}.json      written last: a shard that has one is done
root/dataset.json                         sums over the manifests
"""

import hashlib
import io
import os
import tarfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np

from portraitgen.data.description import SCHEMA_VERSION
from portraitgen.data.index import index_path
from portraitgen.data.manifest import is_done, manifest_path, update_dataset, write_json
from portraitgen.data.members import sample_members
from portraitgen.data.sample import ClipSample, DataError
from portraitgen.data.scan import scan_shard
from portraitgen.media.container import VideoError
from portraitgen.media.gop import packet_table

_TOOLS = ("portraitgen", "av", "numpy", "opencv-python")


def shard_path(root: Path | str, split: str, number: int) -> Path:
    """Where shard `number` of a split lies in the data set folder `root`."""
    return Path(root) / "shards" / f"{split}-{number:06d}.tar"


class ShardWriter:
    """Writes shards one after the other into the data set folder `root`.

    A context manager: leaving it finishes the open shard, leaving it by an exception throws the open shard
    away, so that nothing half-written is left. The same samples in the same order give the same bytes.

    Args:
        root: folder of the data set; made when absent.
        split: first part of the shard names, such as "train" or "val".
        max_bytes, max_samples: a shard is closed before it grows past either.
        first_shard: number of the first shard, for jobs that write one shard each.
        config: settings of the preparation, recorded in the manifests.
        summarize: bring dataset.json up to date at the end; of many writers one shard each, none should.

    Raises:
        DataError: `root` cannot be written to, or a shard to be written is there already and done.
    """

    def __init__(
        self,
        root: Path | str,
        split: str = "train",
        *,
        max_bytes: int = 256 << 20,
        max_samples: int = 10_000,
        first_shard: int = 0,
        config: Mapping[str, Any] | None = None,
        summarize: bool = True,
    ) -> None:
        self._root, self._split, self._summarize = Path(root), split, summarize
        self._max_bytes, self._max_samples = max_bytes, max_samples
        self._next_number = first_shard
        self._config = dict(config or {})
        self._keys: set[str] = set()
        self._landmarks: tuple[str, int] | None = None
        self._errors: list[dict[str, str]] = []
        self._written: list[Path] = []
        self._shard: _OpenShard | None = None
        try:
            for folder in ("shards", "index", "manifests"):
                (self._root / folder).mkdir(parents=True, exist_ok=True)
                if not os.access(self._root / folder, os.W_OK):
                    raise PermissionError(None, "no permission")
        except OSError as error:
            raise DataError(
                f"cannot write shards into {root}: {error.strerror}; choose another folder"
            ) from error

    def write(self, sample: ClipSample) -> None:
        """Append one sample.

        Raises:
            DataError: its key was written already, its picture is not what the sample says, or its landmarks
                are not of the kind that the samples before it have.
        """
        if sample.key in self._keys:
            raise DataError(f"sample {sample.key} was written already; keys must differ within a split")
        landmarks = (sample.landmark_scheme, sample.tracks[0].landmarks.shape[1])
        if self._landmarks not in (None, landmarks):
            raise DataError(
                f"sample {sample.key} has landmarks {landmarks}, those before it {self._landmarks}"
            )
        codec = _checked_codec(sample)
        members = list(sample_members(sample, codec=codec))
        size = sum(len(data) for _, data in members)
        if self._shard is not None and not self._shard.has_room(size, self._max_bytes, self._max_samples):
            self._finish_shard()
        if self._shard is None:
            self._shard = _OpenShard(self._claim_path())
        self._shard.append(sample, codec["codec"], members)
        self._keys.add(sample.key)
        self._landmarks = landmarks

    def record(self, **facts: Any) -> None:
        """Add to what the manifests say of the settings."""
        self._config |= facts

    def record_error(self, source: str, *, stage: str, error: Exception | str) -> None:
        """Note in the manifest that a source, given by name, could not be used and at which stage."""
        kind = type(error).__name__ if isinstance(error, Exception) else "skipped"
        self._errors.append({"source": source, "stage": stage, "type": kind, "message": str(error)})

    def close(self) -> list[Path]:
        """Finish the open shard and bring dataset.json up to date; returns the shards written, in order."""
        if self._shard is not None:
            self._finish_shard()
        if self._written and self._summarize:
            update_dataset(self._root)
        return self._written

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._shard is not None:
            self._shard.discard()
            self._shard = None

    def _claim_path(self) -> Path:
        path = shard_path(self._root, self._split, self._next_number)
        if is_done(path):
            raise DataError(
                f"shard {path} is there already; choose another folder or delete it and its manifest"
            )
        # From here until the new manifest is written the shard must not count as done.
        manifest_path(path).unlink(missing_ok=True)
        self._next_number += 1
        return path

    def _finish_shard(self) -> None:
        assert self._shard is not None
        shard, self._shard = self._shard, None
        manifest = shard.finish()
        tools = {name: version(name) for name in _TOOLS}
        write_json(
            manifest_path(shard.path),
            manifest | {"errors": self._errors, "config": self._config, "tools": tools},
        )
        self._errors = []
        self._written.append(shard.path)


class _OpenShard:
    """One tar being written under a temporary name, and what its manifest will say."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._tar = tarfile.open(self._temporary, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self._samples = self._frames = self._bytes = 0
        self._content: dict[str, set[str]] = {
            name: set() for name in ("sizes", "fps", "codecs", "landmark_schemes", "licences")
        }
        self._started = time.monotonic()

    def has_room(self, size: int, max_bytes: int, max_samples: int) -> bool:
        return self._samples < max_samples and self._bytes + size <= max_bytes

    def append(self, sample: ClipSample, codec: str, members: list[tuple[str, bytes]]) -> None:
        for extension, data in members:
            # TarInfo's defaults are mtime 0 and owner 0: nothing of the machine gets in.
            entry = tarfile.TarInfo(f"{sample.key}.{extension}")
            entry.size = len(data)
            self._tar.addfile(entry, io.BytesIO(data))
            self._bytes += len(data)
        self._samples += 1
        self._frames += sample.num_frames
        self._content["sizes"].add(f"{sample.width}x{sample.height}")
        self._content["fps"].add(str(sample.fps))
        self._content["codecs"].add(codec)
        self._content["landmark_schemes"].add(sample.landmark_scheme)
        self._content["licences"].add(str(sample.source.get("licence") or "unknown"))

    def finish(self) -> dict[str, Any]:
        """Put the shard and its index in place; returns the facts of the manifest."""
        try:
            self._tar.close()
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            # The index is made of what was written, by the code that makes it again when it is lost.
            index, unusable = scan_shard(self._temporary)
            assert not unusable, unusable
            self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)
        index.save(index_path(self.path))
        return {
            "version": SCHEMA_VERSION,
            "shard": self.path.name,
            "bytes": int(index.shard_bytes),
            "sha256": digest,
            "samples": self._samples,
            "frames": self._frames,
            "elapsed_s": round(time.monotonic() - self._started, 3),
            **{name: sorted(values) for name, values in self._content.items()},
        }

    def discard(self) -> None:
        self._tar.close()
        self._temporary.unlink(missing_ok=True)


def _checked_codec(sample: ClipSample) -> dict[str, Any]:
    """Name and GOP length of the picture's code; DataError unless the picture is what the sample says."""
    claimed = (sample.num_frames, sample.height, sample.width)
    if sample.video is not None:
        try:
            table = packet_table(sample.video, name=sample.key)
        except VideoError as error:
            raise DataError(f"sample {error}") from error
        found = (len(table.sizes), table.height, table.width)
        keyframes = np.flatnonzero(table.keyframes)
        codec = {"codec": "h264", "gop": int(np.diff(keyframes, append=len(table.sizes)).max())}
    else:
        image = cv2.imdecode(np.frombuffer(sample.image or b"", np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f"sample {sample.key}: image is not a readable JPEG")
        found = (1, image.shape[0], image.shape[1])
        codec = {"codec": "jpeg", "gop": 1}
    if found != claimed:
        raise DataError(
            f"sample {sample.key}: picture has (frames, height, width) {found}, the sample says {claimed}"
        )
    return codec
