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
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "scripts"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    return root


def submit(checkout: Path, *words: str) -> subprocess.CompletedProcess:
    """Run submit.sh with an sbatch that says what it was given."""
    sbatch = checkout.parent / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text('#!/bin/sh\necho "$PWD" "$PORTRAITGEN_TREE" "$@"\n')
    sbatch.chmod(0o755)
    environment = os.environ | {"PATH": f"{sbatch.parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["experiments/slurm/submit.sh", *words], cwd=checkout, env=environment, capture_output=True, text=True
    )


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


def test_a_dirty_checkout_is_refused(checkout):
    (checkout / "experiments/slurm/train.sbatch").write_text("changed")
    done = submit(checkout, "train.sbatch")
    assert done.returncode == 1
    assert "commit them" in done.stderr
    assert "train.sbatch" in done.stderr
