"""Worker processes import the work from the script that starts them, so each test runs its own script."""

import subprocess
import sys
import textwrap

import pytest

from portraitgen.data.engines.local import LocalEngine

SCRIPT = """
    import os, signal, sys, time
    from pathlib import Path
    from portraitgen.data.engines.local import LocalEngine

    FOLDER = Path(sys.argv[1])

    def work(job, report, skip):
        if job == "early":
            os.kill(os.getpid(), signal.SIGKILL)
        for item in job.split():
            if item in skip:
                print(f"{item}: {skip[item]}", flush=True)
                continue
            report(item, 0)
            if item == "fail":
                raise ValueError("the seventh seal")
            if item == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if item == "exit":
                os._exit(3)
            if item == "once" and not (FOLDER / "once").exists():
                (FOLDER / "once").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if item == "orphan":
                (FOLDER / "pid").write_text(str(os.getpid()))
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(300)
            report(item, 1)
        report(None, 0)
        return job.upper()

    if __name__ == "__main__":
        amounts = []
        print(LocalEngine(workers=2).run(work, JOBS, progress=amounts.append))
        print(amounts[-1])
"""


@pytest.fixture
def run(tmp_path):
    def run_jobs(*jobs):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(SCRIPT).replace("JOBS", repr(jobs)))
        command = [sys.executable, str(script), str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return run_jobs


def test_results_come_in_order_and_all_that_was_done_is_reported(run):
    result = run("a b", "c", "d", "e f", "")
    assert result.stdout.splitlines() == ["['A B', 'C', 'D', 'E F', '']", "6.0"], result.stderr


def test_error_of_a_worker_is_raised_as_it_was(run):
    result = run("a", "fail")
    assert result.returncode == 1
    assert result.stderr.rstrip().endswith("ValueError: the seventh seal")
    assert 'raise ValueError("the seventh seal")' in result.stderr, "the worker's traceback is shown too"


def test_job_of_a_killed_worker_is_done_again(run):
    result = run("a once b", "c", "d")
    assert result.stdout.splitlines() == ["['A ONCE B', 'C', 'D']", "5.0"], result.stderr


def test_what_kills_its_worker_every_time_is_left_out(run):
    result = run("a die b exit", "c")
    assert result.stdout.splitlines() == [
        "die: was killed (SIGKILL, as when memory runs out) each of 3 times",
        "die: was killed (SIGKILL, as when memory runs out) each of 3 times",
        "die: was killed (SIGKILL, as when memory runs out) each of 3 times",
        "die: was killed (SIGKILL, as when memory runs out) each of 3 times",
        "exit: ended with exit code 3 each of 3 times",
        "['A DIE B EXIT', 'C']",
        "3.0",
    ], result.stderr


def test_workers_that_die_before_any_item_are_an_error(run):
    result = run("early", "a")
    assert result.returncode == 1
    assert (
        "WorkerDied: a worker process was killed (SIGKILL, as when memory runs out) 3 times" in result.stderr
    )


def test_workers_end_with_their_parent(run, tmp_path):
    result = run("orphan", "a")
    assert result.returncode == -9
    # The output has ended, so nobody holds it any more, though the worker meant to sleep for minutes.
    assert (tmp_path / "pid").read_text().isdigit()


def test_without_workers_there_is_no_process():
    seen, amounts = [], []

    def work(job, report, skip):
        seen.append(job)
        report("item", 2)
        return -job

    assert LocalEngine(workers=0).run(work, [1, 2], progress=amounts.append) == [-1, -2]
    assert (seen, amounts) == ([1, 2], [2, 4])


@pytest.mark.parametrize("settings", [{"workers": -1}, {"workers": 1, "retries": -1}])
def test_unusable_settings(settings):
    with pytest.raises(ValueError, match="=-1: give"):
        LocalEngine(**settings)
