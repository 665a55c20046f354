import dataclasses
import os

import pytest

from portraitgen.data.manifest import manifest_path, write_json
from portraitgen.data.prepare.plan import clear_superfluous, plan_shards, write_plan
from portraitgen.data.prepare.sources import find_sources

CONFIG = {"size": 64, "source": "videos"}


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.jpg", "c.mp4", "d.jpg", "e.mp4"):
        (folder / name).write_bytes(name.encode())
    return folder


def plan(videos, config=CONFIG, videos_per_shard=2, prune=False):
    sources = find_sources(str(videos))
    return plan_shards(
        sources,
        videos.parent / "out",
        "train",
        videos_per_shard=videos_per_shard,
        photos_per_shard=3,
        config=config,
        prune=prune,
    )


def finish(job, config=CONFIG, samples=0):
    """What a finished job leaves when none of its sources gave a sample."""
    manifest_path(job.path).parent.mkdir(parents=True, exist_ok=True)
    content = {"samples": samples, "frames": 0, "bytes": 5, "errors": []}
    sources = {source.name: source.sha256() for source in job.sources}
    facts = {**config, "fingerprint": job.fingerprint, "sources": sources}
    write_json(manifest_path(job.path), {**content, "config": facts})


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
    (videos / "e.mp4").write_bytes(b"other")
    after = [job.fingerprint for job in plan(videos)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def prepared(videos):
    """Jobs that are written down and finished."""
    jobs = plan(videos)
    write_plan(jobs, videos.parent / "out", "train")
    for job in jobs:
        finish(job)
    return jobs


def names(jobs):
    return {job.path.stem: [source.name for source in job.sources] for job in jobs}


def test_a_source_that_was_only_touched_is_the_same(videos):
    """`touch`, or a copy of the folder, used to make everything anew."""
    before = prepared(videos)
    for path in videos.iterdir():
        os.utime(path, ns=(1, 1))
    assert all(job.is_finished() for job in plan(videos))
    (videos / "a.mp4").write_bytes(b"A.mp4")  # as long as it was
    assert [job.is_finished() for job in plan(videos)] == [False, True, True]
    assert names(plan(videos)) == names(before)


def test_new_sources_go_to_new_shards(videos):
    """One that sorted first used to make every shard anew."""
    before = prepared(videos)
    for name in ("0.mp4", "d.mp4", "a.jpg"):
        (videos / name).write_bytes(name.encode())
    jobs = plan(videos)
    assert all(job.is_finished() for job in jobs if job.path in {old.path for old in before})
    assert names(jobs) == names(before) | {
        "train-000002": ["0.mp4", "d.mp4"],
        "train_photos-000001": ["a.jpg"],
    }


def test_a_key_that_is_taken_is_not_given_again(videos):
    prepared(videos)
    (videos / "e.mov").write_bytes(b"another film")
    keys = [source.key for job in plan(videos) for source in job.sources]
    assert "e" in keys
    assert len(set(keys)) == len(keys)


def test_shards_of_vanished_sources_are_kept(videos):
    """Whoever deleted raw files after preparing them used to lose the data set."""
    jobs = prepared(videos)
    out = videos.parent / "out"
    for name in ("a.mp4", "e.mp4", "b.jpg", "d.jpg"):
        (videos / name).unlink()
    again = plan(videos)
    assert names(again) == names(jobs)
    assert [job.gone for job in again] == [("a.mp4",), ("e.mp4",), ("b.jpg", "d.jpg")]
    assert all(job.is_finished() for job in again)
    assert clear_superfluous(again, out, "train", config=CONFIG) == []
    write_plan(again, out, "train")
    assert names(plan(videos)) == names(jobs)


def test_a_renamed_source_is_the_one_that_it_was(videos):
    """It used to be prepared once more, so that the data set held it twice."""
    jobs = prepared(videos)
    (videos / "a.mp4").rename(videos / "z.mp4")
    (videos / "sub").mkdir()
    (videos / "d.jpg").rename(videos / "sub" / "other.jpg")
    for prune in (False, True):
        again = plan(videos, prune=prune)
        assert names(again) == names(jobs)
        assert all(job.is_finished() and not job.gone for job in again)
        assert [job.renamed for job in again] == [(("a.mp4", "z.mp4"),), (), (("d.jpg", "sub/other.jpg"),)]
        assert again[0].sources[0].path == videos / "z.mp4"
    (videos / "copy.mp4").write_bytes(b"a.mp4")
    assert names(plan(videos)) == names(jobs) | {"train-000002": ["z.mp4"]}, "one of two takes the place"
    (videos / "z.mp4").unlink()
    (videos / "copy.mp4").write_bytes(b"A.MP4")
    assert plan(videos)[0].gone == ("a.mp4",), "of the same size, but another"


def test_pruning_removes_what_is_gone(videos):
    prepared(videos)
    out = videos.parent / "out"
    for name in ("a.mp4", "e.mp4", "b.jpg", "d.jpg"):
        (videos / name).unlink()
    jobs = plan(videos, prune=True)
    assert names(jobs) == {"train-000000": ["c.mp4"]}
    assert not jobs[0].is_finished()
    removed = clear_superfluous(jobs, out, "train", config=CONFIG)
    assert removed == ["train-000001.tar", "train_photos-000000.tar"]


def test_an_interrupted_plan_is_kept_to(videos):
    """Shards that were planned but not made get the sources that they were planned with."""
    jobs = plan(videos)
    write_plan(jobs, videos.parent / "out", "train")
    finish(jobs[0])
    (videos / "0.mp4").write_bytes(b"0")
    assert names(plan(videos)) == names(jobs) | {"train-000002": ["0.mp4"]}


def test_shard_is_finished_while_its_manifest_and_its_tar_are_there(videos):
    job = plan(videos)[0]
    assert not job.is_finished()
    finish(job)
    assert job.is_finished()
    finish(job, samples=1)
    assert not job.is_finished()
    finish(dataclasses.replace(job, fingerprint="other"))
    assert not job.is_finished()


def test_other_splits_are_left_alone(videos):
    jobs = prepared(videos)
    other = videos.parent / "out" / "manifests" / "val-000000.json"
    finish(jobs[0])
    write_json(other, {"samples": 0, "frames": 0, "bytes": 0, "config": {"size": 1}})
    assert clear_superfluous(jobs, videos.parent / "out", "train", config=CONFIG) == []
    assert other.is_file()


def test_shards_made_in_another_way_are_not_touched(videos):
    jobs = prepared(videos)
    finish(jobs[1])
    with pytest.raises(ValueError, match=r"train-000000, which .* another way \(size was 64 and is 128\)"):
        clear_superfluous(jobs[:1], videos.parent / "out", "train", config={**CONFIG, "size": 128})
    assert jobs[1].is_finished()


def test_shards_of_others_are_not_touched(videos):
    job = plan(videos)[0]
    job.path.parent.mkdir(parents=True)
    job.path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="holds shards that were not prepared here"):
        clear_superfluous([job], videos.parent / "out", "train", config=CONFIG)
    assert job.path.read_bytes() == b"precious"
