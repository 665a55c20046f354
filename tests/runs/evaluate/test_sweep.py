"""Generate, grade and compare from one command; a trial that was finished is not made again."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from portraitgen.data.shards import ShardWriter
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.evaluate.sweep import TRIAL, run_trial, trial_fingerprint
from tests.runs.tiny import save_tiny
from tests.synthetic import synthetic_clip

WORDS = [
    "span=[0.75,1.0]",
    "sampling.num_steps=1",
    "metrics.graders.landmarks=null",
    "metrics.checks=[]",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Untrained weights with two scales of guidance, and a shard with one clip."""
    root = tmp_path_factory.mktemp("data")
    with ShardWriter(root, "train") as writer:
        writer.write(synthetic_clip("seen", num_frames=16, size=64, seed=0, valid=np.ones(16, bool)))
    save_tiny(root / "a.safetensors")
    save_tiny(root / "b.safetensors", "sampling.guidance_scale=1.0")
    return root


@pytest.fixture(scope="module")
def command(files):
    weights = ",".join(str(files / f"{name}.safetensors") for name in "ab")
    given = [f"weights={weights}", f"shards={files}/shards/train-*.tar", *WORDS]
    return [sys.executable, "evaluate.py", "sweep", *given]


def run(command, out, repository):
    return subprocess.Popen(
        [*command, f"out={out}"],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_checkpoints_are_compared_and_a_broken_one_is_named(command, files, repository, tmp_path):
    """From one command; the next one, without the broken file, makes nothing again."""
    out = tmp_path / "sweep"
    (files / "broken.safetensors").write_text("<html>404</html>")
    weights, *others = command[3:]
    process = run([*command[:3], f"{weights},{files}/broken.safetensors", *others], out, repository)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 1, printed
    trial, said, why = printed.splitlines()[-1].partition(" failed and is not compared: ")
    assert said, printed
    assert trial.startswith("error: ")
    assert "broken.safetensors" in trial
    assert "broken.safetensors is not a whole safetensors file" in why
    comparison = json.loads((out / "comparison.json").read_text())
    assert list(comparison["runs"]) == ["a", "b"]
    assert comparison["differences"]["b"]["psnr"]["interval"][0] is not None
    assert "comparison.html" in printed
    assert (out / "comparison.html").read_text().count("<video") == 1

    made = {path: path.stat().st_mtime_ns for path in out.glob(f"**/{TRIAL}")}
    assert len(made) == 2
    again = run(command, out, repository)
    printed = again.communicate(timeout=300)[0]
    assert again.returncode == 0, printed
    assert made == {path: path.stat().st_mtime_ns for path in out.glob(f"**/{TRIAL}")}


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_gives_the_same_table(command, repository, tmp_path):
    out = tmp_path / "sweep"
    process = run(command, out, repository)
    deadline = time.monotonic() + 300
    while not list(out.glob(f"*/{TRIAL}")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (first,) = out.glob(f"*/{TRIAL}")
    assert not (out / "comparison.json").exists()
    made = first.stat().st_mtime_ns

    for folder in (out, tmp_path / "whole"):
        again = run(command, folder, repository)
        printed = again.communicate(timeout=300)[0]
        assert again.returncode == 0, printed
    assert first.stat().st_mtime_ns == made, "a finished trial is not made again"
    assert (tmp_path / "whole/comparison.csv").read_text() == (out / "comparison.csv").read_text()


def test_other_settings_are_another_trial(files, tmp_path):
    register_configs()

    def config(*overrides):
        given = [f"weights={files}/a.safetensors", f"shards={files}/shards/train-*.tar", "out=x", *WORDS]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("evaluate_sweep", [*given, *overrides])

    known = trial_fingerprint(config())
    assert trial_fingerprint(config("out=elsewhere", "title=other", "device=cpu")) == known
    for change in ("seed=1", "sampling.num_steps=2", "metrics.graders.pixels=null"):
        assert trial_fingerprint(config(change)) != known
    shutil.copy(files / "a.safetensors", tmp_path / "moved.safetensors")
    assert trial_fingerprint(config(f"weights={tmp_path}/moved.safetensors")) == known, "by content"
    assert trial_fingerprint(config(f"weights={files}/b.safetensors")) != known
    alexnet = tmp_path / "alexnet.pth"
    target = "portraitgen.metrics.graders.lpips.LpipsGrader"
    lpips = f"+metrics.graders.lpips={{_target_: {target}, weights: {alexnet}}}"
    skipped = trial_fingerprint(config(lpips))
    alexnet.write_bytes(b"fetched since")
    fetched = trial_fingerprint(config(lpips))
    alexnet.write_bytes(b"fetched again, another file")
    assert len({skipped, fetched, trial_fingerprint(config(lpips))}) == 3
    with pytest.raises(ValueError, match="a sweep needs weights=… and shards=…"):
        run_trial(config("shards=null"), tmp_path)
