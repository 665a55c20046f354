"""A process that was started beside the first ends: Lightning's own observer, in processes of their own."""

import signal
import subprocess
import sys

import psutil
import pytest

from portraitgen.runs.config.lost_process import process_lost_message
from portraitgen.training.preemption import EXIT_CODE

FIRST = """
import os, subprocess, sys, time
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from portraitgen.runs.train.launched import end_in_order

end_in_order(patience_s={patience})
other = subprocess.Popen([sys.executable, "-c", "import os; os._exit({code})"])
others = [other, *(subprocess.Popen(["sleep", "600"]) for _ in range({hung}))]
print(*(each.pid for each in others[1:]), flush=True)
_ChildProcessObserver(main_pid=os.getpid(), child_processes=others, sleep_period=0.05).start()
other.wait()
time.sleep({busy})
print("ends by itself", flush=True)
sys.exit(7)
"""


def first(*, code: int, busy: float, patience: float, hung: int = 0) -> subprocess.CompletedProcess:
    script = FIRST.format(code=code, busy=busy, patience=patience, hung=hung)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("code", [1, EXIT_CODE])
def test_the_first_process_ends_by_itself_when_another_is_gone(code):
    """It was killed before it could say a word: a rank lost in this moment left an empty log."""
    done = first(code=code, busy=2, patience=60)
    assert done.returncode == 7, done.stderr
    assert done.stdout.split("\n", 1)[1] == "ends by itself\n"
    assert process_lost_message() not in done.stderr


def test_one_that_left_for_a_signal_is_followed_with_more_patience():
    assert first(code=EXIT_CODE, busy=2, patience=0.1).returncode == 7


def test_others_that_hang_do_not_outlive_the_first():
    """They stayed, with their GPUs, since Lightning's observer ends with the first process."""
    done = first(code=1, busy=1, patience=3, hung=2)
    assert done.returncode == 7, done.stderr
    assert not [pid for pid in map(int, done.stdout.split("\n", 1)[0].split()) if _runs(pid)]


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_first_process_that_hangs_is_killed_with_a_line():
    done = first(code=1, busy=600, patience=0.5)
    assert done.returncode == -signal.SIGKILL
    assert done.stderr.splitlines() == [f"error: {process_lost_message()}"]
