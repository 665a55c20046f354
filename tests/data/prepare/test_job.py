"""One shard as an engine's work: what is reported, and what becomes of a file that killed its workers."""

import errno
import json

import numpy as np
import pytest

from portraitgen.data.catalog import Catalog
from portraitgen.data.manifest import manifest_path
from portraitgen.data.prepare.job import ShardMaker
from portraitgen.data.prepare.outcome import Outcome
from portraitgen.data.prepare.plan import discard_shard, plan_shards
from portraitgen.data.prepare.preparation import Preparation
from portraitgen.data.prepare.sources import find_sources
from portraitgen.data.sample import DataError
from portraitgen.faces.dlib import DlibBackend
from portraitgen.media.decode import iter_frames
from portraitgen.media.encode import write_video
from tests.data.prepare.small_settings import small_settings

SETTINGS = small_settings(videos_per_shard=3, embed_every=0)


@pytest.fixture
def job(tmp_path, carphone):
    """Two short videos and a broken one, for one shard."""
    man = [frame.image for frame in iter_frames(carphone) if frame.index < 6]
    for name in ("a", "c"):
        write_video(tmp_path / f"in/{name}.mp4", man, fps=25)
    (tmp_path / "in/b.mp4").write_text("no video")
    sources = find_sources(str(tmp_path / "in"))
    sizes = {"videos_per_shard": 3, "photos_per_shard": 3}
    (job,) = plan_shards(sources, tmp_path / "out", "train", **sizes, config={})
    return job.weighed()


@pytest.fixture
def make(tmp_path):
    """Makes the shard of a job; gives what was reported."""

    def make(job, skip):
        reports = []
        maker = ShardMaker(str(tmp_path / "out"), Preparation(DlibBackend(), SETTINGS), {})
        maker(job, lambda *report: reports.append(report), skip)
        return reports

    return make


def test_all_work_is_reported_once(job, make):
    sizes = [source.path.stat().st_size for source in job.sources]
    assert job.weights == tuple(size / 1e6 for size in sizes)
    reports = make(job, {})
    assert list(dict.fromkeys(item for item, _ in reports)) == ["a.mp4", "b.mp4", "c.mp4", None]
    assert sum(amount for _, amount in reports) == pytest.approx(sum(sizes) / 1e6)
    assert len(reports) > 12, "a long video is reported while it goes by"


def test_a_finished_shard_is_left_alone(job, make):
    make(job, {})
    before = job.path.stat().st_mtime_ns
    assert make(job, {}) == [(None, pytest.approx(sum(job.weights)))]
    assert job.path.stat().st_mtime_ns == before


def refuse_a(sample):
    if sample.key.startswith("a-"):
        raise DataError(f"sample {sample.key}: nobody has a valid box")
    return sample


def test_a_sample_that_a_step_refuses_is_left_out_alone(job, tmp_path):
    maker = ShardMaker(str(tmp_path / "out"), Preparation(DlibBackend(), SETTINGS), {}, (refuse_a,))
    maker(job, lambda *report: None, {})
    (index,) = Catalog(str(job.path)).indexes
    assert [index.key(row) for row in range(len(index))] == ["c-000000000"]
    assert "a.mp4: sample a-000000000: nobody has a valid box" in Outcome.of([job]).partly


def test_a_file_that_killed_its_workers_is_left_out_and_named(job, make):
    make(job, {"a.mp4": "was killed (SIGKILL, as when memory runs out) each of 3 times"})
    assert Catalog(str(job.path)).indexes[0].keys.tolist() == [b"c-000000000"]
    error = json.loads(manifest_path(job.path).read_text())["errors"][0]
    assert (error["source"], error["stage"], error["type"]) == ("a.mp4", "crash", "WorkerDied")
    line = Outcome.of([job]).lines()[1]
    assert line.startswith(
        "  skipped a.mp4: its worker process was killed (SIGKILL, as when memory runs out)"
    )
    assert f"delete {manifest_path(job.path)} and run the same command" in line


def test_what_a_killed_run_left_is_cleared_and_nothing_new_is_left(job, make):
    left = job.path.with_name(f".{job.path.name}.abcd.tmp")
    left.mkdir(parents=True)
    (left / "sound").write_bytes(b"half a video")
    make(job, {})
    assert [path.name for path in job.path.parent.iterdir()] == [job.path.name]


def test_rough_work_is_done_beside_the_shard(job, tmp_path):
    seen = []

    def read(source, folder, note, progress):
        (folder / "clip").write_bytes(b"")
        seen.append((folder.is_dir(), folder.parent, folder.name.startswith(".")))
        yield from ()

    ShardMaker(str(tmp_path / "out"), read, {})(job, lambda *_: None, {})
    assert seen == [(True, job.path.parent, True)] * 3
    assert list(job.path.parent.iterdir()) == []


def test_a_mistake_of_a_library_costs_one_line_and_one_of_a_setting_ends_the_run(job, tmp_path):
    backend = Preparation(DlibBackend(), SETTINGS)

    def read(source, folder, note, progress):
        if source.name == "a.mp4":
            np.zeros(3).reshape(2, 2)  # a ValueError of NumPy
        yield from backend(source, folder, note, progress)

    ShardMaker(str(tmp_path / "out"), read, {})(job, lambda *_: None, {})
    assert [line for line in Outcome.of([job]).lines() if "a.mp4: ValueError (cannot reshape" in line]

    def unset(source, folder, note, progress):
        small_settings(size=7)
        yield

    discard_shard(job.path)
    with pytest.raises(ValueError, match="size=7"):
        ShardMaker(str(tmp_path / "out"), unset, {})(job, lambda *_: None, {})


@pytest.mark.parametrize(
    "error", [RuntimeError("detector"), PermissionError(1, "Operation not permitted"), RecursionError("deep")]
)
def test_whatever_one_source_throws_costs_one_line(job, tmp_path, error):
    backend = Preparation(DlibBackend(), SETTINGS)

    def read(source, folder, note, progress):
        if source.name == "a.mp4":
            raise error
        yield from backend(source, folder, note, progress)

    ShardMaker(str(tmp_path / "out"), read, {})(job, lambda *_: None, {})
    assert Catalog(str(job.path)).indexes[0].keys.tolist() == [b"c-000000000"]
    assert [line for line in Outcome.of([job]).lines() if "a.mp4: " in line]


def test_a_full_disk_is_no_fault_of_a_source(job, tmp_path):
    def read(source, folder, note, progress):
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    with pytest.raises(ValueError, match=r"No space left on device.*make room"):
        ShardMaker(str(tmp_path / "out"), read, {})(job, lambda *_: None, {})
