"""Tasks that meet before a run, over real sockets in threads; on a real SLURM: tests/slurm."""

import socket
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from portraitgen.runs.train.rendezvous import _gather, _report, launch_problems, meet

STARTED = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}


@pytest.fixture
def place() -> tuple[str, int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return "127.0.0.1", free.getsockname()[1]


def together(*calls) -> list[Future]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [pool.submit(*call) for call in calls]


def test_all_go_once_the_last_has_come(place):
    ranks = together((_gather, place, 3, 20.0), *((_report, place, rank, 3, 20.0) for rank in (1, 2)))
    assert [rank.result() for rank in ranks] == [None] * 3
    with socket.create_server(("", place[1])):  # the run opens the port next
        pass


def test_those_that_did_not_come_are_named(place):
    first, there = together((_gather, place, 4, 1.0), (_report, place, 2, 4, 1.0))
    with pytest.raises(
        ValueError, match=rf"waited 1 s at 127.0.0.1, port {place[1]}, for 2 of 4 .* rank 1, 3"
    ):
        first.result()
    with pytest.raises(ValueError, match=r"rank 2 on .* waited 1 s for rank 0"):
        there.result()


def test_a_run_that_was_started_twice_says_so(place):
    ranks = together((_gather, place, 3, 20.0), *((_report, place, 1, 3, 1.0) for _ in range(2)))
    with pytest.raises(ValueError, match=r"says it is rank 1 of 3, as does process \d+ on"):
        ranks[0].result()


def test_strangers_at_the_port_change_nothing(place):
    def stranger() -> None:
        for said in (b"GET / HTTP/1.1\r\n\r\n", b'{"rank": "1"}\n', b"\xff" * 5000):
            for _ in range(100):
                try:
                    with socket.create_connection(place) as call:
                        call.sendall(said)
                    break
                except OSError:
                    continue

    ranks = together((_gather, place, 2, 20.0), (stranger,), (_report, place, 1, 2, 20.0))
    assert ranks[0].result() is None
    assert ranks[2].result() is None


def test_a_port_in_use_is_named(place):
    with (
        socket.create_server(place),
        pytest.raises(ValueError, match=rf"port {place[1]} .*: another program has it\. Set MASTER_PORT"),
    ):
        _gather(place, 2, 1.0)


def test_a_name_that_nobody_knows_is_named(monkeypatch):
    for name, value in {**STARTED, "MASTER_ADDR": "no-such-node.invalid", "SLURMD_NODENAME": "n7"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"MASTER_ADDR no-such-node\.invalid, .* which is n7 here"):
        meet()


def test_nobody_waits_where_there_are_no_others(monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    meet()
    for name, value in {**STARTED, "TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "no-such-node.invalid"}.items():
        monkeypatch.setenv(name, value)
    meet()  # torchrun's processes have met


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"SLURM_STEP_ID": None}, "srun did not start this process"),
        ({"SLURM_NTASKS_PER_NODE": None}, "--ntasks-per-node"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000"),
        ({"SLURM_STEP_ID": None, "SLURM_NTASKS": "1"}, None),
        ({"SLURM_STEP_ID": None, "TORCHELASTIC_RUN_ID": "1"}, None),
    ],
)
def test_how_the_tasks_were_started(changes, problem):
    environment = {name: value for name, value in (STARTED | changes).items() if value is not None}
    problems = [*launch_problems(environment)]
    assert len(problems) == (problem is not None)
    assert problem is None or problem in problems[0]
