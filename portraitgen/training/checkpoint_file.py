"""A training checkpoint on the disk: how it is written, verified and read.

A file ends in the SHA-256 of all that stands before, which `torch.load` does not look at. A folder, as
DeepSpeed writes them, holds the SHA-256 of each of its files in `sha256.txt`, in the format of `sha256sum`.
"""

import hashlib
import os
import pickle
import shutil
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from portraitgen.media.files import replacing, sync
from portraitgen.training.background import BackgroundWriter
from portraitgen.training.sharding import Copies

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"

_MARK = b"\nsha256:"
_TRAILER_BYTES = len(_MARK) + 64
_MANIFEST = "sha256.txt"
_CHUNK_BYTES = 1 << 22


class CheckpointError(ValueError):
    """A checkpoint is damaged; the message says which and how."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes straight to the folder of the checkpoint, then renames; reads without unpickling objects.

    Lightning's own collects the whole file in memory, then writes it to the system's temporary folder,
    which is small on many cluster nodes, and copies it from there.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            hashed = _Hashed(file)
            torch.save(checkpoint, cast(BinaryIO, hashed))  # write and flush are all it calls
            file.write(_MARK + hashed.digest.hexdigest().encode())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """The checkpoint's dictionary.

        Raises:
            CheckpointError: the file cannot be read.
        """
        return _load(Path(path), map_location)


class BackgroundCheckpointIO(AtomicCheckpointIO):
    """As `AtomicCheckpointIO`, but `save_checkpoint` returns once everything is copied to host memory.

    The copy is PyTorch's own for asynchronous checkpoints: its memory is used again for the next one, and
    pinned where there is a GPU. Lightning's `AsyncCheckpointIO` clones on the device of each tensor, lets any
    number of writes wait, and tells of a failed one only when the next one starts.

    Args:
        writer: what writes the files; it must have ended before the next checkpoint.
    """

    def __init__(self, writer: BackgroundWriter) -> None:
        self._writer = writer
        gpu = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=gpu,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=gpu,
            )
        )

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        # What was gathered from shards is a copy already.
        copied: Any = dict(checkpoint) if isinstance(checkpoint, Copies) else self._stager.stage(checkpoint)
        self._writer.submit(super().save_checkpoint, copied, path)

    def teardown(self) -> None:
        self._stager.close()


def keep(written: Path, path: Path, *, step: int) -> None:
    """Make a checkpoint that was written the last one, and the last one the one before, once it is verified.

    Args:
        step: optimizer steps that it must have behind it.

    Raises:
        CheckpointError: what is on the disk is not what was written; the ones before stay.
    """
    try:
        if written.is_dir():
            _write_manifest(written)
        verify(written, from_disk=True)
        if (found := saved_step(written)) != step:
            raise CheckpointError(f"{written} holds step {found} in the place of {step}")
    except BaseException:
        remove(written)
        raise
    if path.exists():
        previous = path.with_name(PREVIOUS)
        if previous.is_dir():
            shutil.rmtree(previous)
        os.replace(path, previous)
    os.replace(written, path)
    sync(path.parent)


def remove(path: Path) -> None:
    """A checkpoint, be it a file or a folder, or nothing."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def saved_step(path: Path) -> int:
    """Optimizer steps that a checkpoint has behind it; of a file no tensor is read.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    if path.is_dir():
        states = sorted(path.rglob("*.pt")) + sorted(path.glob("*.ckpt"))
        for state in states:
            facts = _load(state, "cpu", mmap=True)
            if "global_step" in facts:
                return int(facts["global_step"])
        raise CheckpointError(f"{path} is a folder without a checkpoint")
    facts = _load(path, "cpu", mmap=True)
    if "global_step" not in facts:
        raise CheckpointError(f"{path} is no checkpoint of a run: it says no step")
    return int(facts["global_step"])


def verify(path: Path, *, from_disk: bool = False) -> None:
    """Compare the bytes of a checkpoint with its digests; older ones without any pass.

    Args:
        from_disk: read what the disk has, not what the memory of the machine still holds of it.

    Raises:
        CheckpointError: they are not those that were written.
    """
    if path.is_dir():
        _verify_folder(path, from_disk=from_disk)
        return
    with path.open("rb") as file:
        if from_disk:
            _forget(file)
        digest = _digest(file, max(path.stat().st_size - _TRAILER_BYTES, 0))
        trailer = file.read()
    if trailer.startswith(_MARK) and trailer[len(_MARK) :] != digest.encode():
        raise CheckpointError(f"{path} is damaged: its bytes are not those that were written (SHA-256)")


class _Hashed:
    """A file to write to, which keeps the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _write_manifest(folder: Path) -> None:
    """Say in `sha256.txt` what the files of a folder are, once they are on the disk."""
    lines = []
    for name, file in _files(folder).items():
        sync(file)
        with file.open("rb") as opened:
            lines.append(f"{_digest(opened, file.stat().st_size)}  {name}\n")
    with replacing(folder / _MANIFEST) as temporary:
        temporary.write_text("".join(lines))


def _verify_folder(folder: Path, *, from_disk: bool) -> None:
    manifest = folder / _MANIFEST
    if not manifest.is_file():
        return
    lines = manifest.read_text(errors="replace").splitlines()
    stated = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    files = _files(folder)
    for name in sorted(stated.keys() ^ files.keys()):
        problem = "is missing" if name in stated else "is not one of those that were written"
        raise CheckpointError(f"{folder} is damaged: its file {name} {problem}")
    for name, file in files.items():
        with file.open("rb") as opened:
            if from_disk:
                _forget(opened)
            if _digest(opened, file.stat().st_size) != stated[name]:
                raise CheckpointError(
                    f"{folder} is damaged: the bytes of {name} are not those that were written (SHA-256)"
                )


def _files(folder: Path) -> dict[str, Path]:
    """All files below a folder by their name in it, but the manifest."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / _MANIFEST)
    return {str(path.relative_to(folder)): path for path in found}


def _digest(file: BinaryIO, size: int) -> str:
    """SHA-256 of the next `size` bytes."""
    digest = hashlib.sha256()
    while size and (chunk := file.read(min(size, _CHUNK_BYTES))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _forget(file: BinaryIO) -> None:
    """Let the memory of the machine drop what it holds of a file that was synced."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _load(path: Path, map_location: Any, *, mmap: bool = False) -> dict[str, Any]:
    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except (RuntimeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} cannot be read, perhaps it was cut short ({reason})") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} is no checkpoint of a run")
    return loaded
