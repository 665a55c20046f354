"""Whether a data set on the disk is what was written: every byte, every index, all members of all samples."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from portraitgen.data.archive import Archive
from portraitgen.data.index import ShardIndex, index_path
from portraitgen.data.manifest import manifest_path, read_manifest, summarize_dataset
from portraitgen.data.members import sample_from_members
from portraitgen.data.sample import DAMAGE, ClipSample, DataError
from portraitgen.data.scan import scan_shard
from portraitgen.media.audio import decode_wav
from portraitgen.media.bounded import read_json
from portraitgen.media.gop import GopDecoder, PacketTable


def shards_of_dataset(root: Path) -> list[Path]:
    """Every shard that a tar or a manifest speaks of, in the order of their names.

    Raises:
        DataError: there is none.
    """
    names = {path.stem for path in (root / "shards").glob("*.tar")}
    names |= {path.stem for path in (root / "manifests").glob("*.json")}
    if not names:
        raise DataError(f"out={root} holds no shards: give the folder that prepare.py wrote")
    return [root / "shards" / f"{name}.tar" for name in sorted(names)]


def shard_problems(shard: Path, *, progress: Callable[[int], None] = lambda size: None) -> list[str]:
    """What is wrong with one shard, its manifest and its index; empty when it is sound.

    Args:
        progress: called with the bytes of each sample that has been read.
    """
    manifest = read_manifest(shard)
    if manifest is None:
        there = manifest_path(shard).is_file()
        return [f"its manifest {'cannot be read' if there else 'is missing'}, so it does not count as done"]
    if manifest["samples"] == 0:
        return ["the manifest knows of no sample, but there is a tar"] if shard.is_file() else []
    if not shard.is_file():
        return ["the tar is missing"]
    size = shard.stat().st_size
    if size != manifest["bytes"]:
        return [f"the tar has {size} bytes, the manifest says {manifest['bytes']}: cut short or overwritten"]
    problems = []
    with shard.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest.get("sha256"):
            problems.append("the tar's sha256 is not that of the manifest: bytes have changed")
    index, unusable = scan_shard(shard)
    problems += [f"{key}: {reason}" for key, reason in unusable]
    if (len(index), int(index.num_frames.sum())) != (manifest["samples"], manifest["frames"]):
        problems.append(
            f"{len(index)} samples with {int(index.num_frames.sum())} frames can be used, the manifest says "
            f"{manifest['samples']} with {manifest['frames']}"
        )
    return problems + _index_problems(shard, index) + _member_problems(shard, index, progress)


def dataset_problems(root: Path) -> list[str]:
    """What is wrong with dataset.json."""
    path = root / "dataset.json"
    try:
        stored = read_json(path)
    except (OSError, ValueError):
        return ["dataset.json is missing or cannot be read"]
    return [] if stored == summarize_dataset(root) else ["dataset.json is not the sum of the manifests"]


def _index_problems(shard: Path, index: ShardIndex) -> list[str]:
    """Compare the stored index with the one made of the tar just now."""
    if not index_path(shard).is_file():
        return ["its index is missing"]
    try:
        stored = ShardIndex.load(index_path(shard))
    except DataError as error:
        return [str(error)]
    names = [field.name for field in fields(ShardIndex)]
    different = [name for name in names if not _equal(getattr(stored, name), getattr(index, name))]
    return [f"its index is not that of the tar: {', '.join(different)} differ"] if different else []


def _equal(stored: np.ndarray, made: np.ndarray) -> bool:
    floats = stored.dtype.kind == made.dtype.kind == "f"
    return stored.dtype == made.dtype and np.array_equal(stored, made, equal_nan=floats)


def _member_problems(shard: Path, index: ShardIndex, progress: Callable[[int], None]) -> list[str]:
    """Read every member of every sample as training would, and decode its pictures and sound."""
    archive, decoder = Archive(shard), GopDecoder()
    problems = []
    for row in range(len(index)):
        members = {name: archive.read(member) for name, member in index.members(row).items()}
        try:
            _check_arrays(members)
            sample = sample_from_members(members)
            _decode(sample, index.packets(row), decoder)
        except DAMAGE as error:
            problems.append(f"{index.key(row)}: {str(error) or type(error).__name__}")
        progress(sum(map(len, members.values())))
    return problems


def _check_arrays(members: Mapping[str, memoryview]) -> None:
    """DataError that names the npz whose checksums are wrong."""
    for name, data in members.items():
        if name.endswith(".npz"):
            try:
                with zipfile.ZipFile(io.BytesIO(data)) as container:
                    damaged = container.testzip()
            except DAMAGE as error:
                raise DataError(f"{name} is damaged: {error}") from error
            if damaged is not None:
                raise DataError(f"{name} is damaged: the checksum of {damaged} is wrong")


def _decode(sample: ClipSample, packets: PacketTable | None, decoder: GopDecoder) -> None:
    """ValueError unless all pictures and the sound decode, and there are as many as the sample says."""
    if sample.video is not None and packets is not None:
        edges = [*np.flatnonzero(packets.keyframes).tolist(), sample.num_frames]
        for start, stop in pairwise(edges):  # a group at a time: flat memory
            decoder.decode_yuv420(sample.video, start=start, count=stop - start, table=packets, name="mp4")
    pictures = [*(crop for track in sample.tracks for crop in track.faces)]
    if sample.image is not None:
        pictures.append(sample.image)
    for picture in pictures:
        if cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) is None:
            raise DataError("a jpg is not readable")
    if sample.audio is not None:
        waveform, rate = decode_wav(sample.audio)
        expected = float(sample.num_frames / sample.fps)
        if abs(len(waveform) / rate - expected) > 1 / rate:
            raise DataError(f"wav lasts {len(waveform) / rate:.3f} s, the clip {expected:.3f} s")
