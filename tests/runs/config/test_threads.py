"""Threads on the CPU: shared among the processes of a command, and asleep while they wait."""

import os
import subprocess
import sys

import pytest

from portraitgen.runs.config import threads as module
from portraitgen.runs.config.threads import set_threads, share_threads


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OMP_NUM_THREADS",
        "OMP_WAIT_POLICY",
        "LOCAL_WORLD_SIZE",
        "SLURM_CPUS_PER_TASK",
        "PORTRAITGEN_THREADS",
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "torch", raising=False)


@pytest.mark.parametrize(
    ("cores", "processes", "threads"), [(1, "1", "1"), (4, "1", "4"), (4, "8", "1"), (64, "4", "8")]
)
def test_the_cores_are_shared(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: str, threads: str
) -> None:
    monkeypatch.setattr(module, "available_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    line = set_threads()
    assert (
        line == f"computing on the CPU with {threads} of {cores} cores; OMP_NUM_THREADS=… for another number"
    )
    assert os.environ["OMP_NUM_THREADS"] == threads
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_processes_that_are_started_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_cores", lambda: 8)
    set_threads()
    share_threads(4)
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    share_threads(4)  # that of the user, or shared already
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_what_the_user_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert set_threads() is None
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_a_task_of_slurm_has_its_own_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "12")
    assert module.available_cores() == 12


def test_it_is_set_before_pytorch_is_imported() -> None:
    code = "import sys, portraitgen.runs.config.command; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
