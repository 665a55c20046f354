"""Nothing of a visit is left when it is over, and what is another's stays."""

import os
import time

import pytest

from portraitgen.runs.demo.desk import Job
from portraitgen.runs.demo.limits import Limits
from portraitgen.runs.demo.result import Result
from portraitgen.runs.demo.visits import Visits


@pytest.fixture
def left():
    return []


@pytest.fixture
def visits(tmp_path, left):
    def leave(job):
        left.append(job)
        job.finished.set()

    return Visits(tmp_path, leave=leave, idle_s=60)


def upload(visits, name):
    path = visits.uploads / name / f"{name}.jpg"
    path.parent.mkdir()
    path.write_bytes(b"x" * 10)
    return path


def result(visit):
    folder = visit.new_folder()
    (folder / "a.mp4").write_bytes(b"video")
    return Result(folder, "a", {"a.mp4": folder / "a.mp4"}, "a.mp4", None, "", "")


def files(root):
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_a_visit_takes_its_files_with_it(tmp_path, visits, left):
    ann, bob = visits.of("ann"), visits.of("bob")
    mine, both = upload(visits, "mine"), upload(visits, "both")
    ann.uploads |= {mine, both}
    bob.uploads |= {both}
    ann.keep(result(ann), most=10)
    bob.keep(result(bob), most=10)
    ann.job = Job(lambda job: None, Limits())
    assert visits.stored_bytes() == 20
    visits.end("ann")
    assert left == [ann.job]
    assert files(tmp_path) == ["a.mp4", "both.jpg"], "those of Bob"
    visits.end("bob")
    visits.end("bob")
    assert [path.name for path in tmp_path.rglob("*")] == ["uploads", "visits"]


def test_only_so_many_results_are_kept(visits):
    visit = visits.of("ann")
    for _ in range(3):
        visit.keep(result(visit), most=2)
    assert [each.folder.name for each in visit.results] == ["2", "3"]
    assert [path.name for path in sorted(visit.folder.iterdir())] == ["2", "3"]


def test_a_result_has_an_address_that_nobody_guesses(visits):
    visit, other = visits.of("ann"), visits.of("bob")
    visit.keep(result(visit), most=2)
    assert len(visit.name) >= 32
    assert visits.result_file(visit.name, "1", "a.mp4").read_bytes() == b"video"
    for address in (
        (other.name, "1", "a.mp4"),
        (visit.name, "2", "a.mp4"),
        (visit.name, "1", "../a.mp4"),
        ("", "1", "a.mp4"),
    ):
        assert visits.result_file(*address) is None


def test_the_sweep_ends_idle_visits_and_removes_what_nobody_claims(tmp_path, visits):
    busy, idle, fresh = (visits.of(name) for name in ("busy", "idle", "fresh"))
    for visit in (busy, idle):
        visit.seen -= 100
        visit.keep(result(visit), most=2)
    busy.job = Job(lambda job: None, Limits())
    old, new = upload(visits, "old"), upload(visits, "new")
    hours_ago = time.time() - 7200
    os.utime(old, (hours_ago, hours_ago))
    visits.sweep()
    assert visits.of("busy") is busy
    assert visits.of("fresh") is fresh
    assert visits.of("idle") is not idle
    assert not idle.folder.exists()
    assert not old.exists()
    assert new.exists()
