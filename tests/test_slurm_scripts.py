"""The scripts for SLURM: they parse, and submit.sh runs a commit and nothing else."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from portraitgen.runs.config.schema import CONF

EXPERIMENTS = CONF.parent / "experiments"
SCRIPTS = sorted(path for path in EXPERIMENTS.rglob("*") if path.suffix in (".sh", ".sbatch"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", script], check=True)


@pytest.fixture
def checkout(tmp_path):
    """A repository that holds the scripts and one commit."""
    root = tmp_path / "checkout"
    shutil.copytree(EXPERIMENTS / "slurm", root / "experiments/slurm")
    shutil.copytree(CONF / "paths", root / "conf/paths")
    shutil.copy2(CONF.parent / ".gitignore", root)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "scripts"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    return root


def with_sbatch(folder: Path, says: str, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run a script with an sbatch that says what it was given."""
    sbatch = folder / "bin" / "sbatch"
    sbatch.parent.mkdir(exist_ok=True)
    sbatch.write_text(f"#!/bin/sh\n{says}\n")
    sbatch.chmod(0o755)
    environment = os.environ | {"PATH": f"{sbatch.parent}:{os.environ['PATH']}"}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)


def submit(checkout: Path, *words: str) -> subprocess.CompletedProcess:
    says = 'echo "$PWD" "$PORTRAITGEN_TREE" "$@"'
    return with_sbatch(checkout.parent, says, "experiments/slurm/submit.sh", *words, cwd=checkout)


def test_options_for_sbatch_stand_before_the_script(checkout):
    """Nodes and tasks could not be set."""
    done = submit(checkout, "--nodes=4", "--partition=gpu", "train.sbatch", "seed=1")
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()[2:]
    assert words[:2] == ["--nodes=4", "--partition=gpu"]
    assert words[2].endswith("experiments/slurm/train.sbatch")
    assert words[3:] == ["seed=1"]
    assert submit(checkout, "-N", "4", "train.sbatch").returncode == 2


@pytest.mark.parametrize("system", ["aniportrait", "flux_identity", "loopy", "uniportrait"])
def test_stages_are_submitted_with_options(system, tmp_path):
    script = EXPERIMENTS / system / "stages.sh"
    done = with_sbatch(
        tmp_path, 'echo "$@" >> calls; echo 42', script, "--nodes=2", "a=1", "b=2", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) >= 2
    assert all(call.startswith("--nodes=2 ") for call in calls)
    assert "--dependency=afterok:42 experiments/slurm/train.sbatch experiment=" in calls[1]


def test_a_chain_waits_for_each_of_its_jobs(checkout):
    says = f'echo "$@" >> {checkout.parent}/calls; wc -l < {checkout.parent}/calls'
    environment = {"SHARES": "8", "PREPARE": "fps=25 size=256"}
    words = ("env", *(f"{key}={value}" for key, value in environment.items()), "experiments/slurm/chain.sh")
    done = with_sbatch(
        checkout.parent,
        says,
        *words,
        "--nodes=3",
        "my videos",
        "shards/a",
        "x/one,x/two",
        "seed=1",
        cwd=checkout,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        *("1", "prepare", "2", "x/one", "3", "x/two", "4", "generate", "5", "evaluate")
    ]
    prepare, one, two, generate, evaluate = (checkout.parent / "calls").read_text().splitlines()
    assert prepare.endswith("prepare.sbatch source=my videos out=shards/a fps=25 size=256")
    for number, call in enumerate((one, two, generate, evaluate), start=1):
        assert f"--kill-on-invalid-dep=yes --dependency=afterok:{number} " in call
    for call, stage in ((one, "x/one"), (two, "x/two")):
        assert " --nodes=3 " in call
        assert call.endswith(f"experiment={stage} data.shards=shards/a/shards/train-*.tar seed=1")
    assert " --array=0-7 " in generate
    assert "--nodes" not in generate
    assert "runs/x/two/generated weights=runs/x/two/weights/last.safetensors" in generate
    assert evaluate.endswith("evaluate.sbatch runs/x/two/generated")


def test_the_log_of_a_job_that_began_keeps_none_of_the_chain_back(checkout):
    """What a job writes was a change that no commit holds: nothing was submitted behind it."""
    (checkout / "talk.mp4").touch()
    says = f'echo "$@" >> {checkout.parent}/calls; touch slurm-7.log slurm-7_0.out; echo 7'
    done = with_sbatch(
        checkout.parent, says, "experiments/slurm/chain.sh", "talk.mp4", "shards/a", "x/one", cwd=checkout
    )
    assert done.returncode == 0, done.stderr
    assert len((checkout.parent / "calls").read_text().splitlines()) == 4


def test_a_job_runs_a_checkout_of_the_commit(checkout):
    done = submit(checkout, "train.sbatch", "experiment=aniportrait/stage1", "name=a b")
    assert done.returncode == 0, done.stderr
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=checkout, text=True)
    tree = checkout.parent / "portraitgen-worktrees" / commit[:12]
    assert done.stdout.split() == [
        *(str(checkout), str(tree), f"{tree}/experiments/slurm/train.sbatch"),
        *("experiment=aniportrait/stage1", "name=a", "b"),
    ]
    assert (tree / "experiments/slurm/train.sbatch").is_file()


def test_a_job_has_the_settings_of_this_machine(checkout):
    """The paths of conf/local, which no commit holds, were passed over without a word."""
    settings = checkout / "conf/local/default.yaml"
    settings.parent.mkdir()
    for folder in ("/scratch/me", "/scratch/others"):  # changed, for the same commit
        settings.write_text(f"# @package _global_\npaths: {{runs: {folder}}}\n")
        done = submit(checkout, "train.sbatch")
        assert done.returncode == 0, done.stderr
        tree = Path(done.stdout.split()[1])
        assert (tree / "conf/local/default.yaml").read_text() == settings.read_text()
    status = ["git", "-C", tree, "status", "--porcelain"]
    assert not subprocess.check_output(status), "the commit counts as changed"


def test_a_dirty_checkout_is_refused(checkout):
    (checkout / "experiments/slurm/train.sbatch").write_text("changed")
    done = submit(checkout, "train.sbatch")
    assert done.returncode == 1
    assert "commit them" in done.stderr
    assert "train.sbatch" in done.stderr


@pytest.mark.parametrize("name", ["conf/experiment/loopy/mine.yaml", "portraitgen/nn/mine.py", "mine.py"])
def test_code_that_was_not_added_is_refused(checkout, name):
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).touch()
    done = submit(checkout, "train.sbatch")
    assert done.returncode == 1
    assert f"?? {name}" in done.stderr
