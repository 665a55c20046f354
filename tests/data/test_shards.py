"""Shards: round trip, determinism, schema, and what is left behind when writing fails."""

import hashlib
import io
import json
import tarfile
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
import webdataset

from portraitgen.data.catalog import Catalog
from portraitgen.data.index import ShardIndex, index_path
from portraitgen.data.manifest import is_done, manifest_path
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import ClipMasks, ClipRegion, ClipSample, DataError, make_key
from portraitgen.data.scan import scan_shard
from portraitgen.data.shards import ShardWriter, shard_path
from portraitgen.media.masks import decode_rle_batch, encode_rle_batch
from tests.synthetic import synthetic_clip


@pytest.fixture(scope="module")
def clips() -> list[ClipSample]:
    return [synthetic_clip(f"person{i}", num_frames=24 + i, seed=i) for i in range(3)]


def full_sample(clip: ClipSample) -> ClipSample:
    """A sample that uses every member of the schema."""
    length = clip.num_frames
    pictures = np.random.default_rng(0).random((length, 2, clip.height, clip.width)) < 0.1
    masks = ClipMasks(*encode_rle_batch(pictures), (4, 9), "sam2")
    boxes = np.arange(4 * length, dtype=np.float32).reshape(length, 4)
    head = ClipRegion(boxes=boxes, scores=boxes[:, 0] / length, valid=np.arange(length) % 3 > 0)
    track = replace(
        clip.tracks[0],
        embedding=np.arange(128, dtype=np.float32),
        identity_name="Ann-é",
        faces=(b"one", b"two"),
        head=head,
        person=replace(head, boxes=boxes + 1),
        mask_ids={"face": 9, "person": 4},
        control_frames={"face": 3, "person": 7},
    )
    second = replace(
        clip.tracks[0],
        embedding=np.zeros(128, np.float32),
        valid=np.arange(length) % 5 > 0,
        person=head,
    )
    return replace(
        clip, tracks=(track, second), audio=b"RIFF", masks=masks, caption="a face", key="full-000000040"
    )


def photo_sample(key: str = "photo-000000000") -> ClipSample:
    clip = synthetic_clip("photo", num_frames=1, size=32)
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    return replace(clip, key=key, video=None, image=jpeg)


def write(root, samples, **settings):
    with ShardWriter(root, **settings) as writer:
        for sample in samples:
            writer.write(sample)
    return writer.close()


def assert_samples_equal(left: ClipSample, right: ClipSample) -> None:
    def compare(a, b, name):
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=name)
        elif hasattr(a, "__dataclass_fields__"):
            for field in fields(a):
                compare(getattr(a, field.name), getattr(b, field.name), f"{name}.{field.name}")
        elif isinstance(a, tuple):
            assert len(a) == len(b), name
            for i, (x, y) in enumerate(zip(a, b, strict=True)):
                compare(x, y, f"{name}[{i}]")
        else:
            assert a == b, name

    left = replace(left, affine=np.broadcast_to(left.affine, (left.num_frames, 2, 3)))
    compare(left, right, left.key)


def test_samples_come_back_as_they_went_in(tmp_path, clips):
    samples = [*clips, full_sample(clips[1]), photo_sample()]
    shards = write(tmp_path, samples)
    catalog = Catalog(str(shards[0]))
    reader = ClipReader(catalog)
    for row, sample in enumerate(samples):
        assert_samples_equal(sample, reader.sample(0, row))


def test_masks_are_read_frame_by_frame_by_region(tmp_path, clips):
    sample = full_sample(clips[0])
    (shard,) = write(tmp_path, [clips[1], sample, photo_sample()])
    reader = ClipReader(Catalog(str(shard)))
    stored = decode_rle_batch(sample.masks.runs, sample.masks.offsets, (64, 64), np.arange(48).reshape(24, 2))
    frames = np.array([0, 5, 23])
    np.testing.assert_array_equal(reader.masks(0, 1, 0, frames), stored[frames, 1])
    np.testing.assert_array_equal(reader.masks(0, 1, 0, frames, region="person"), stored[frames, 0])
    for row, track, region, person in ((1, 1, "face", 2), (1, 0, "head", 1), (0, 0, "face", 1)):
        with pytest.raises(DataError, match=f"no mask of the {region} of person {person}"):
            reader.masks(0, row, track, frames, region=region)


def test_a_plain_clip_holds_the_face_alone(tmp_path, clips):
    (shard,) = write(tmp_path, [clips[0]])
    (sample,) = webdataset.WebDataset(str(shard), shardshuffle=False)
    assert json.loads(sample["json"])["regions"] == ["face"]
    assert np.load(io.BytesIO(sample["tracks.npz"]))["box"].shape == (24, 1, 1, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ids": {"head": 4}}, "mask_ids names 'head', of which the track has no boxes"),
        ({"control_frames": {"face": 24}}, r"control_frames {'face': 24} are not all of the 24 frames"),
        (
            {"head": ClipRegion(boxes=np.zeros((3, 4)), scores=np.zeros(3), valid=np.zeros(3, bool))},
            r"boxes of the head must be float32 \(24, 4\), found float64 \(3, 4\)",
        ),
    ],
)
def test_a_track_refuses_what_cannot_be(clips, changes, message):
    with pytest.raises(DataError, match=message):
        replace(clips[0].tracks[0], **changes)


def test_masks_must_fit_the_clip_and_its_tracks(clips):
    masks = ClipMasks(np.zeros(0, np.uint32), np.zeros(25, np.int64), (1,), "hull")
    with pytest.raises(DataError, match=r"names the masks {'face': 2}, there are \(1,\)"):
        replace(clips[0], masks=masks, tracks=(replace(clips[0].tracks[0], mask_ids={"face": 2}),))
    with pytest.raises(DataError, match=r"there are 24 masks, not 2 in each of 24 frames"):
        replace(clips[0], masks=replace(masks, ids=(1, 2)))


def test_equal_samples_give_equal_bytes(tmp_path, clips):
    samples = [*clips, full_sample(clips[0])]
    first, second = (write(tmp_path / name, samples)[0] for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert index_path(first).read_bytes() == index_path(second).read_bytes()
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    assert json.loads(manifest_path(first).read_text())["sha256"] == digest


def test_shards_are_plain_webdataset_tars(tmp_path, clips):
    (shard,) = write(tmp_path, [full_sample(clips[0])])
    with tarfile.open(shard) as tar:
        entries = tar.getmembers()
    assert [entry.name.partition(".")[2] for entry in entries] == [
        *("mp4", "wav", "tracks.npz", "lmk.npz", "masks.npz", "face.1_0.jpg", "face.1_1.jpg", "txt", "json"),
    ]
    assert {(entry.mtime, entry.uid, entry.gid, entry.uname) for entry in entries} == {(0, 0, 0, "")}
    (sample,) = webdataset.WebDataset(str(shard), shardshuffle=False)
    assert sample["__key__"] == "full-000000040"
    assert sample["mp4"] == clips[0].video
    about = json.loads(sample["json"])
    assert about["video"] == {"n": 24, "fps": "25", "w": 64, "h": 64, "codec": "h264", "gop": 12}
    assert about["tracks"]["2"]["face"]["valid"] == [[1, 5], [6, 10], [11, 15], [16, 20], [21, 24]]
    stored = np.load(io.BytesIO(sample["tracks.npz"]), allow_pickle=False)
    assert about["regions"] == ["face", "head", "person"]
    assert about["tracks"]["1"]["person"]["mask_id"] == 4
    assert about["tracks"]["1"]["face"]["control_frame"] == 3
    assert "head" not in about["tracks"]["2"]
    assert stored["box"].shape == (24, 2, 3, 4)
    assert np.isnan(stored["box"][:, 1, 1]).all()
    assert not stored["valid"][:, 1, 1].any()
    assert stored["affine"].shape == (24, 2, 3)


def test_shards_are_closed_at_either_limit(tmp_path, clips):
    samples = [replace(clips[0], key=make_key("x", i)) for i in range(5)]
    assert len(write(tmp_path / "count", samples, max_samples=2)) == 3
    size = shard_path(tmp_path / "count", "train", 2).stat().st_size
    shards = write(tmp_path / "size", samples, max_bytes=2 * size + size // 2, first_shard=7, split="val")
    assert [shard.name for shard in shards] == [f"val-{i:06d}.tar" for i in range(7, 7 + len(shards))]
    assert sum(len(Catalog(str(shard)).indexes[0]) for shard in shards) == 5
    summary = json.loads((tmp_path / "count" / "dataset.json").read_text())
    assert summary["splits"]["train"]["shards"] == 3
    assert summary["splits"]["train"]["samples"] == 5
    assert summary["splits"]["train"]["frames"] == 5 * 24
    assert (summary["sizes"], summary["landmark_schemes"]) == (["64x64"], ["ibug68"])


def test_index_is_what_a_scan_finds(tmp_path, clips):
    samples = [*clips, photo_sample()]
    (shard,) = write(tmp_path, samples)
    stored, (scanned, unusable) = ShardIndex.load(index_path(shard)), scan_shard(shard)
    assert not unusable
    for field in fields(ShardIndex):
        np.testing.assert_array_equal(getattr(stored, field.name), getattr(scanned, field.name), field.name)
    assert stored.packets(3) is None
    table = stored.packets(1)
    assert np.flatnonzero(table.keyframes).tolist() == [0, 12, 24]
    assert [stored.key(row) for row in range(4)] == [sample.key for sample in samples]


def test_an_error_leaves_nothing_behind(tmp_path, clips):
    def stop_halfway():
        with ShardWriter(tmp_path) as writer:
            writer.write(clips[0])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_halfway()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_errors_of_sources_stand_in_the_manifest(tmp_path, clips):
    with ShardWriter(tmp_path, config={"size": 64}) as writer:
        writer.record_error("a.mp4", stage="detect", error=ValueError("no face"))
        writer.write(clips[0])
        writer.record_error("b.mp4", stage="probe", error="is a text file")
    manifest = json.loads(manifest_path(shard_path(tmp_path, "train", 0)).read_text())
    assert [(e["source"], e["stage"], e["type"], e["message"]) for e in manifest["errors"]] == [
        ("a.mp4", "detect", "ValueError", "no face"),
        ("b.mp4", "probe", "skipped", "is a text file"),
    ]
    assert manifest["config"] == {"size": 64}
    assert manifest["tools"].keys() >= {"portraitgen", "av"}


def test_a_shard_is_done_only_while_it_is_whole(tmp_path, clips):
    (shard,) = write(tmp_path, clips)
    assert is_done(shard)
    with pytest.raises(DataError, match="is there already"):
        write(tmp_path, clips)
    shard.write_bytes(shard.read_bytes()[:-1])
    assert not is_done(shard)
    write(tmp_path, clips)
    assert is_done(shard)
    shard.unlink()
    assert not is_done(shard)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "a.b-000000000"}, "is not"),
        ({"key": "../up-000000000"}, "is not"),
        ({"num_frames": 23}, "a track has 24 frames"),
        ({"width": 32}, r"picture has .*\(24, 64, 64\)"),
        ({"width": 66}, "multiples of 4"),
        ({"video": b"not a video"}, "not a readable mp4"),
        ({"image": b"x"}, "either video or image"),
        ({"tracks": ()}, "no track"),
        ({"affine": np.eye(3)}, "affine"),
    ],
)
def test_samples_that_are_not_sound_are_refused(tmp_path, clips, change, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path, [replace(clips[0], **change)])
    assert not list((tmp_path / "shards").glob("*.tar*"))


def test_keys_and_landmarks_must_agree_within_a_split(tmp_path, clips):
    with pytest.raises(DataError, match="was written already"):
        write(tmp_path, [clips[0], clips[0]])
    with pytest.raises(DataError, match="has landmarks"):
        write(tmp_path, [clips[0], replace(clips[1], landmark_scheme="other")])


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write shards into .*file/out: Not a directory"):
        ShardWriter(tmp_path / "file" / "out")
