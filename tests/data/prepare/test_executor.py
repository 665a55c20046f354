"""Worker processes import the work from the script that starts them, so each test runs its own script."""

import subprocess
import sys
import textwrap

import pytest

from portraitgen.data.prepare.executor import run_jobs

SCRIPT = """
    import os, signal, sys, time
    from portraitgen.data.prepare.executor import run_jobs

    class Work:
        def __init__(self):
            self.done = 0

        def __call__(self, job, step_done):
            if job == "fail":
                raise ValueError("the seventh seal")
            if job == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if job == "orphan":
                with open(sys.argv[1], "w") as file:
                    file.write(str(os.getpid()))
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(300)
            self.done += 1
            step_done()
            step_done()

    if __name__ == "__main__":
        steps = []
        run_jobs(Work(), JOBS, workers=2, step_done=lambda: steps.append(None))
        print(len(steps))
"""


def run(tmp_path, jobs):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).replace("JOBS", repr(jobs)))
    command = [sys.executable, str(script), str(tmp_path / "pid")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_all_jobs_are_done_and_every_step_is_reported(tmp_path):
    result = run(tmp_path, [1, 2, 3, 4, 5])
    assert result.stdout == "10\n", result.stderr


def test_error_of_a_worker_is_raised_as_it_was(tmp_path):
    result = run(tmp_path, [1, "fail"])
    assert result.returncode == 1
    assert result.stderr.rstrip().endswith("ValueError: the seventh seal")


def test_worker_that_dies_is_a_clear_error(tmp_path):
    result = run(tmp_path, [1, "die"])
    assert result.returncode == 1
    assert "ValueError: a worker process died, as happens when memory runs out" in result.stderr


def test_workers_end_with_their_parent(tmp_path):
    result = run(tmp_path, ["orphan", 1])
    assert result.returncode == -9
    # The output has ended, so nobody holds it any more, though the worker meant to sleep for minutes.
    assert (tmp_path / "pid").read_text().isdigit()


@pytest.mark.parametrize(("workers", "jobs"), [(0, [1, 2]), (4, [1])])
def test_without_need_there_is_no_process(workers, jobs):
    seen, steps = [], []

    def work(job, step_done):
        seen.append(job)
        step_done()

    run_jobs(work, jobs, workers=workers, step_done=lambda: steps.append(None))
    assert seen == jobs
    assert len(steps) == len(jobs)
