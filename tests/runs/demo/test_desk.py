"""One job at a time, in order; a job that is left ends at its next step, and the machine is free."""

import threading
import time
import weakref

import pytest

from portraitgen.runs.demo import desk as desk_module
from portraitgen.runs.demo.desk import Cancelled, Desk, Job, OutOfMemory
from portraitgen.runs.demo.limits import Limits


@pytest.fixture
def desk():
    made = Desk(Limits(waiting=3))
    yield made
    made.close()


def steps(begun: threading.Event):
    """Work of ten thousand steps of a millisecond."""

    def work(job: Job) -> str:
        on_step = job.begin("walking")
        begun.set()
        for number in range(10_000):
            time.sleep(0.001)
            on_step(number + 1, 10_000)
        return "there"

    return work


def test_a_failed_job_keeps_nothing_that_it_drew_from():
    class Drawn:
        pass

    made = []

    def work(job: Job) -> None:
        drawn = Drawn()
        made.append(weakref.ref(drawn))
        raise ValueError("no face found")

    job = Job(work, Limits())
    job.run()
    assert str(job.error) == "no face found"
    assert made[0]() is None


def test_jobs_come_one_after_the_other(desk):
    order: list[int] = []
    alone = threading.Lock()

    def work(number):
        def do(job):
            assert alone.acquire(blocking=False), "two at once"
            time.sleep(0.02)
            order.append(number)
            alone.release()
            return number

        return do

    jobs = [desk.submit(work(number)) for number in range(3)]
    assert all(job.finished.wait(5) for job in jobs)
    assert order == [job.result for job in jobs] == [0, 1, 2]


def test_the_place_in_the_queue(desk):
    begun = threading.Event()
    first = desk.submit(steps(begun))
    assert begun.wait(5)
    second, third = desk.submit(lambda job: 2), desk.submit(lambda job: 3)
    assert [desk.before(job) for job in (first, second, third)] == [0, 1, 2]
    desk.leave(second)
    assert second.finished.is_set()
    assert isinstance(second.error, Cancelled)
    assert desk.before(third) == 1
    desk.leave(first)
    assert third.finished.wait(5)
    assert third.result == 3


def test_a_job_ends_at_its_next_step_and_says_how_far_it_was(desk):
    begun = threading.Event()
    job = desk.submit(steps(begun))
    assert begun.wait(5)
    while job.done < 5:
        time.sleep(0.005)
    assert job.stage == "walking"
    assert job.total == 10_000
    assert 1 < job.seconds_left < 1000
    desk.leave(job)
    assert job.finished.wait(1)
    assert isinstance(job.error, Cancelled)
    assert job.done < 9_000


def test_a_full_queue_and_a_closed_desk():
    desk, begun = Desk(Limits(waiting=1)), threading.Event()
    running = desk.submit(steps(begun))
    assert begun.wait(5)
    waiting = desk.submit(lambda job: None)
    with pytest.raises(ValueError, match="1 people are waiting already"):
        desk.submit(lambda job: None)
    desk.close()
    assert isinstance(running.error, Cancelled)
    assert isinstance(waiting.error, Cancelled)


def test_a_job_that_takes_too_long_or_too_much(monkeypatch):
    for limits, free, error, said in (
        (Limits(minutes=1e-4), None, ValueError, "more than the 0.0001 minutes"),
        (Limits(free_memory_mb=500), 400 << 20, OutOfMemory, ""),
    ):
        monkeypatch.setattr(desk_module, "free_memory", lambda free=free: free)
        job = Job(steps(threading.Event()), limits)
        job.run()
        assert isinstance(job.error, error)
        assert said in str(job.error)


def test_warnings_of_a_job_are_its_notes(desk):
    import logging

    ours = logging.getLogger("portraitgen.faces")
    job = desk.submit(lambda job: ours.warning("the face reaches out of the picture"))
    ours.warning("of somebody else")
    assert job.finished.wait(5)
    assert job.notes == ["the face reaches out of the picture"]
