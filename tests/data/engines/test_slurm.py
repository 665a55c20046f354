"""The array's tasks as processes of this machine (submitit's local cluster); what they do is the same."""

import os
import subprocess
import sys
import textwrap

import pytest

from portraitgen.data.engines.slurm import SlurmEngine

pytest.importorskip("submitit")

# Work travels by name, so that it stands in a module that tasks can import.
MODULE = """
    import os, signal

    def work(job, report, skip):
        report(job, 1)
        if job == "fail":
            raise ValueError("the seventh seal")
        if job == "lost":  # as when the machine goes down
            os.kill(os.getppid(), signal.SIGKILL)
        return job.upper()
"""
SCRIPT = """
    import sys
    from portraitgen.data.engines.slurm import SlurmEngine
    from some_work import work

    if __name__ == "__main__":
        engine, done = SlurmEngine(1, array=2, folder=sys.argv[1], cluster="local"), []
        print(engine.run(work, JOBS, progress=done.append))
        print(done[-1])
"""


@pytest.fixture
def run(tmp_path):
    def run_jobs(*jobs):
        (tmp_path / "some_work.py").write_text(textwrap.dedent(MODULE))
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(SCRIPT).replace("JOBS", repr(jobs)))
        command = [sys.executable, str(script), str(tmp_path / "array")]
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)

    return run_jobs


def test_the_tasks_share_the_jobs_and_results_come_in_order(run, tmp_path):
    result = run("a", "b", "c", "d", "e")
    assert result.stdout.splitlines() == ["['A', 'B', 'C', 'D', 'E']", "5.0"], result.stderr
    assert len(list((tmp_path / "array").glob("*_submitted.pkl"))) == 2
    assert (tmp_path / "array").stat().st_mode & 0o77 == 0, "nobody else may put pickles there"
    assert list((tmp_path / "array").glob("progress-*")) == []


def test_error_of_a_task_is_raised_as_it_was(run):
    result = run("a", "fail")
    assert result.returncode == 1
    assert result.stderr.rstrip().endswith("ValueError: the seventh seal")


def test_a_lost_task_is_a_clear_error(run):
    result = run("a", "lost")
    assert result.returncode == 1
    last = result.stderr.rstrip().splitlines()[-1]
    assert "ended before its work was done (time limit, or a machine was lost; see " in last
    assert "run the same command again" in last


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"array": 0}, "engine.array=0: give"),
        (
            {"array": 1, "parameters": {"slurm_partitoin": "gpu"}},
            "engine.parameters: Unknown argument",
        ),
        ({"array": 1, "parameters": {"timeout_min": "1h"}}, 'engine.parameters: Parameter "timeout_min"'),
        ({"array": 1, "cluster": "pbs"}, "engine.cluster=pbs"),
    ],
)
def test_unusable_settings(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SlurmEngine(1, **{"folder": str(tmp_path), "cluster": "local", **settings}).run(
            print, [1], progress=print
        )


def test_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"srun.*take engine=local"):
        SlurmEngine(1, array=1, folder=str(tmp_path)).run(print, [1], progress=print)
