import dataclasses
import os

import pytest

from portraitgen.data.manifest import manifest_path, write_json
from portraitgen.data.prepare.plan import clear_superfluous, plan_shards
from portraitgen.data.prepare.sources import find_sources

CONFIG = {"size": 64, "source": "videos"}


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.jpg", "c.mp4", "d.jpg", "e.mp4"):
        (folder / name).write_bytes(name.encode())
    return folder


def plan(videos, config=CONFIG, videos_per_shard=2):
    sources = find_sources(str(videos))
    return plan_shards(
        sources,
        videos.parent / "out",
        "train",
        videos_per_shard=videos_per_shard,
        photos_per_shard=3,
        config=config,
    )


def finish(job, config=CONFIG, samples=0):
    """What a finished job leaves when none of its sources gave a sample."""
    manifest_path(job.path).parent.mkdir(parents=True, exist_ok=True)
    content = {"samples": samples, "frames": 0, "bytes": 5, "errors": []}
    write_json(manifest_path(job.path), {**content, "config": {**config, "fingerprint": job.fingerprint}})


def test_sources_are_dealt_out_in_order_and_kinds_kept_apart(videos):
    jobs = plan(videos)
    assert [(job.path.name, [source.name for source in job.sources]) for job in jobs] == [
        ("train-000000.tar", ["a.mp4", "c.mp4"]),
        ("train-000001.tar", ["e.mp4"]),
        ("train_photos-000000.tar", ["b.jpg", "d.jpg"]),
    ]


def test_fingerprint_follows_sources_and_settings(videos):
    before = [job.fingerprint for job in plan(videos)]
    assert [job.fingerprint for job in plan(videos)] == before
    assert len(set(before)) == 3
    assert not set(before) & {job.fingerprint for job in plan(videos, {**CONFIG, "size": 128})}
    os.utime(videos / "e.mp4", ns=(1, 1))
    after = [job.fingerprint for job in plan(videos)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_shard_is_finished_while_its_manifest_and_its_tar_are_there(videos):
    job = plan(videos)[0]
    assert not job.is_finished()
    finish(job)
    assert job.is_finished()
    finish(job, samples=1)
    assert not job.is_finished()
    finish(dataclasses.replace(job, fingerprint="other"))
    assert not job.is_finished()


def test_shards_of_vanished_sources_are_removed(videos):
    jobs = plan(videos)
    out = videos.parent / "out"
    for job in jobs:
        finish(job)
    assert clear_superfluous(jobs, out, "train", config=CONFIG) == []
    for name in ("e.mp4", "b.jpg", "d.jpg"):
        (videos / name).unlink()
    removed = clear_superfluous(plan(videos), out, "train", config=CONFIG)
    assert removed == ["train-000001.tar", "train_photos-000000.tar"]
    assert [path.name for path in (out / "manifests").iterdir()] == ["train-000000.json"]


def test_other_splits_are_left_alone(videos):
    jobs = plan(videos)
    other = videos.parent / "out" / "manifests" / "val-000000.json"
    finish(jobs[0])
    write_json(other, {"samples": 0, "frames": 0, "bytes": 0, "config": {"size": 1}})
    assert clear_superfluous(jobs, videos.parent / "out", "train", config=CONFIG) == []
    assert other.is_file()


def test_shards_made_in_another_way_are_not_touched(videos):
    jobs = plan(videos)
    finish(jobs[1])
    with pytest.raises(ValueError, match=r"train-000001, which .* another way \(size was 64 and is 128\)"):
        clear_superfluous(jobs[:1], videos.parent / "out", "train", config={**CONFIG, "size": 128})
    assert jobs[1].is_finished()


def test_shards_of_others_are_not_touched(videos):
    job = plan(videos)[0]
    job.path.parent.mkdir(parents=True)
    job.path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="holds shards that were not prepared here"):
        clear_superfluous([job], videos.parent / "out", "train", config=CONFIG)
    assert job.path.read_bytes() == b"precious"
