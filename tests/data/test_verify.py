"""Damage of every kind, made by hand in a sound data set, is found and named."""

import json
import random
from contextlib import suppress
from dataclasses import replace

import cv2
import numpy as np
import pytest

from portraitgen.data.archive import Archive
from portraitgen.data.catalog import Catalog
from portraitgen.data.index import ShardIndex, index_path
from portraitgen.data.manifest import manifest_path, update_dataset, write_json
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import DataError
from portraitgen.data.shards import ShardWriter
from portraitgen.data.verify import dataset_problems, shard_problems, shards_of_dataset
from portraitgen.media.audio import encode_wav
from tests.synthetic import synthetic_clip


@pytest.fixture
def shard(tmp_path):
    with ShardWriter(tmp_path) as writer:
        silence = encode_wav(np.zeros(30 * 640, np.float32))
        writer.write(replace(synthetic_clip("one", num_frames=30, size=64), audio=silence))
        writer.write(synthetic_clip("two", num_frames=14, size=64))
    with ShardWriter(tmp_path, "photos") as writer:
        jpeg = cv2.imencode(".jpg", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
        writer.write(replace(synthetic_clip("three", num_frames=1, size=32), video=None, image=jpeg))
    return tmp_path / "shards/train-000000.tar"


def overwrite(shard, extension, data, *, at=0):
    """Put `data` into the middle of a member, in place; returns the key of its sample."""
    archive = Archive(shard)
    member = next(each for each in archive.members() if each.name.endswith(extension))
    with shard.open("r+b") as file:
        file.seek(member.offset + at)
        file.write(data)
    return member.name.partition(".")[0]


def test_what_was_written_is_sound(shard):
    root = shard.parent.parent
    assert [each.stem for each in shards_of_dataset(root)] == ["photos-000000", "train-000000"]
    assert [shard_problems(each) for each in shards_of_dataset(root)] == [[], []]
    assert dataset_problems(root) == []


def test_a_folder_without_shards(tmp_path):
    with pytest.raises(DataError, match="holds no shards: give the folder"):
        shards_of_dataset(tmp_path)


def test_missing_parts(shard):
    shard.rename(shard.with_suffix(".bak"))
    assert shard_problems(shard) == ["the tar is missing"]
    shard.with_suffix(".bak").rename(shard)
    index_path(shard).unlink()
    assert shard_problems(shard) == ["its index is missing"]
    manifest_path(shard).unlink()
    assert shard_problems(shard) == ["its manifest is missing, so it does not count as done"]
    assert shard in shards_of_dataset(shard.parent.parent)
    manifest_path(shard).write_text("{")
    assert shard_problems(shard)[0].startswith("its manifest cannot be read")


def test_a_truncated_tar(shard):
    shard.write_bytes(shard.read_bytes()[:-512])
    (problem,) = shard_problems(shard)
    assert "cut short or overwritten" in problem


def test_a_single_flipped_bit_outside_all_samples(shard):
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert shard_problems(shard) == ["the tar's sha256 is not that of the manifest: bytes have changed"]


@pytest.mark.parametrize(
    ("extension", "at", "data", "message"),
    [
        (".mp4", 3000, bytes(200), "overwritten with zeros"),
        (".wav", 0, b"RIFX", "not a WAV file"),
        (".tracks.npz", 0, b"xxxx", "tracks.npz is damaged: the checksum of box.npy is wrong"),
        (".tracks.npz", 400, b"\xff" * 64, "the checksum of box.npy is wrong"),
        (".json", 0, b"}", "Expecting value"),
    ],
)
def test_a_damaged_member_is_named(shard, extension, at, data, message):
    key = overwrite(shard, extension, data, at=at)
    problems = shard_problems(shard)
    assert "sha256" in problems[0]
    assert any(problem.startswith(f"{key}: ") and message in problem for problem in problems), problems


def test_no_damage_ends_verifying_or_reading(shard):
    """Headers of zips, arrays and WAVs that lie make Python's readers raise nearly anything."""
    sound, rng = shard.read_bytes(), random.Random(0)
    members = [each for each in Archive(shard).members() if not each.name.endswith("mp4")]
    reader = ClipReader(Catalog(str(shard)))
    for _ in range(250):
        data, member = bytearray(sound), rng.choice(members)
        reach = min(member.size, 300)
        first = member.offset + rng.choice([0, member.size - reach])
        for _ in range(rng.choice([1, 4])):
            data[first + rng.randrange(reach)] ^= rng.randrange(1, 256)
        with shard.open("r+b") as file:  # the same file: the reader has it mapped
            file.write(data)
        if data != sound:
            assert shard_problems(shard)
        for row in range(2):
            with suppress(DataError):
                reader.sample(0, row)


def test_a_damaged_photo(shard):
    photos = shard.with_name("photos-000000.tar")
    overwrite(photos, ".jpg", b"\0\0\0\0")
    assert any("jpg is not readable" in problem for problem in shard_problems(photos))


def test_an_index_of_another_tar(shard):
    index = ShardIndex.load(index_path(shard))
    index.runs[0, 1] += 1
    index.save(index_path(shard))
    assert shard_problems(shard) == ["its index is not that of the tar: runs differ"]
    index_path(shard).write_bytes(b"")
    assert "is not an index" in shard_problems(shard)[0]


def test_counts_of_the_manifest(shard):
    manifest = json.loads(manifest_path(shard).read_text())
    write_json(manifest_path(shard), manifest | {"samples": 3})
    assert shard_problems(shard) == ["2 samples with 44 frames can be used, the manifest says 3 with 44"]
    assert dataset_problems(shard.parent.parent) == ["dataset.json is not the sum of the manifests"]
    update_dataset(shard.parent.parent)
    assert dataset_problems(shard.parent.parent) == []
    (shard.parent.parent / "dataset.json").unlink()
    assert dataset_problems(shard.parent.parent) == ["dataset.json is missing or cannot be read"]
