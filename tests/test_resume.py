"""`kill -9` in mid-run, then the same command again: bit for bit the weights of a run that was left alone.

Through the real train.py, for both stages of AniPortrait and UniPortrait, one process and two (gloo), loader
workers 0 and 2.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from portraitgen.data.shards import ShardWriter
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.train.train import train
from tests.synthetic import synthetic_clip
from tests.systems.uniportrait.tiny import write_photos

STEPS = 6
SAVED_AT = 2
KILLED_AT = 4
"""After a step behind the last checkpoint: what was done since is lost and must be done again."""

COMMON = [
    f"trainer.max_steps={STEPS}",
    f"callbacks.last_checkpoint.every_steps={SAVED_AT}",
    "data.val_samples=1",
    "sampling.num_steps=1",
]
TWO_PROCESSES = ["strategy=ddp", "trainer.devices=2", "data.batch_size=1"]
# Whatever happens beside training must not touch it: the interrupted run validates and draws more often.
DISTRACTED = ["trainer.val_check_interval=3", "callbacks.samples.every_steps=3"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A pattern of two shards with drawn faces."""
    root = tmp_path_factory.mktemp("data")
    with ShardWriter(root, "train", max_samples=2) as writer:
        for seed in range(4):
            writer.write(synthetic_clip(f"face{seed}", num_frames=24, size=64, seed=seed))
    return root / "shards" / "train-*.tar"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A pattern of shards with drawn photos of two people each."""
    return write_photos(tmp_path_factory.mktemp("photos"), people=2)


def start(repository: Path, shards: Path | str, runs: Path, *overrides: str) -> subprocess.Popen:
    words = [sys.executable, "train.py", f"data.shards={shards}", f"paths.runs={runs}", *COMMON, *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, cwd=repository, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen) -> str:
    """What a run that must end well says."""
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return errors


def kill(process: subprocess.Popen, *, at_step: int) -> None:
    """Kill all processes of a run as soon as it says that it has done a step."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if f"step {at_step}/{STEPS}" in line:
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "".join(seen)


def differences(one: Any, two: Any, path: str = "") -> list[str]:
    """Paths of all leaves of two checkpoints that differ."""
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return [line for key in one for line in differences(one[key], two[key], f"{path}.{key}")]
    if isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        return [
            line
            for i, pair in enumerate(zip(one, two, strict=True))
            for line in differences(*pair, f"{path}[{i}]")
        ]
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return [] if torch.equal(one, two) else [path]
    return [] if one == two else [path]


def saved(run: Path) -> dict[str, Any]:
    """The last checkpoint."""
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def assert_equal_runs(one: Path, two: Path) -> None:
    """Weights, averages, optimizer and logged losses."""
    weights = [load_file(run / "weights/last.safetensors") for run in (one, two)]
    assert differences(*weights) == []
    states = [saved(run) for run in (one, two)]
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step"):
        assert differences(states[0][part], states[1][part], part) == []
    losses = [
        [row.split(",")[:2] for row in (run / "metrics.csv").read_text().splitlines()] for run in (one, two)
    ]
    assert losses[0] == losses[1]


def check_stage(
    repository: Path, shards: Path | str, tmp_path: Path, experiment: str, *overrides: str, workers: int
) -> None:
    """Runs an experiment once without interruption and once killed and resumed, and compares them."""
    words = [f"experiment={experiment}", *overrides]
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    finish(start(repository, shards, whole, *words))
    again = [*words, *DISTRACTED, f"data.num_workers={workers}"]
    kill(start(repository, shards, interrupted, *again), at_step=KILLED_AT)
    assert "resuming from" in finish(start(repository, shards, interrupted, *again))
    # Files hold where they lie; the runs must not differ in that.
    assert_equal_runs(whole / experiment, interrupted / experiment)


@pytest.fixture(scope="module")
def stage1_weights(shards, tmp_path_factory):
    """Weights that stage 2 can start from."""
    runs = tmp_path_factory.mktemp("stage1")
    words = ["experiment=aniportrait/tiny_stage1", f"data.shards={shards}", f"paths.runs={runs}"]
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        train(compose("train", [*words, *COMMON, "trainer.max_steps=1"]))
    torch.use_deterministic_algorithms(False)
    return runs / "aniportrait/tiny_stage1/weights/last.safetensors"


def test_stage_one_with_workers(repository, shards, tmp_path):
    check_stage(repository, shards, tmp_path, "aniportrait/tiny_stage1", workers=2)


def test_stage_two_in_two_processes(repository, shards, stage1_weights, tmp_path):
    words = [f"stage.init_from={stage1_weights}", *TWO_PROCESSES]
    check_stage(repository, shards, tmp_path, "aniportrait/tiny_stage2", *words, workers=0)


def test_photos_of_several_people(repository, photos, tmp_path):
    """UniPortrait's second stage: noise in the router, drops of people and of structure, other photos."""
    words = ["stage.init_from=null", "stage.expect_missing=[]", "stage.init_copies={}"]
    check_stage(repository, photos, tmp_path, "uniportrait/tiny_stage2", *words, workers=2)


@pytest.mark.parametrize(
    "processes", [[], pytest.param(TWO_PROCESSES, marks=pytest.mark.slow)], ids=["one", "two"]
)
def test_clips_with_sound_and_motion_frames(repository, talking_man, tmp_path, processes):
    shards, words = talking_man / "data/shards/train-*.tar", ["stage.init_from=null", *processes]
    check_stage(repository, shards, tmp_path, "loopy/tiny_stage2", *words, workers=0)


@pytest.mark.slow
def test_frames_of_clips_with_sound(repository, talking_man, tmp_path):
    shards = talking_man / "data/shards/train-*.tar"
    check_stage(repository, shards, tmp_path, "loopy/tiny_stage1", workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [[], TWO_PROCESSES], ids=["one", "two"])
@pytest.mark.parametrize("experiment", ["aniportrait/tiny_stage1", "aniportrait/tiny_stage2"])
def test_every_combination(repository, shards, stage1_weights, tmp_path, experiment, processes, workers):
    words = [*processes]
    if experiment == "aniportrait/tiny_stage2":
        words.append(f"stage.init_from={stage1_weights}")
    check_stage(repository, shards, tmp_path, experiment, *words, workers=workers)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [[], TWO_PROCESSES], ids=["one", "two"])
def test_both_stages_on_photos(repository, photos, tmp_path, processes, workers):
    check_stage(repository, photos, tmp_path, "uniportrait/tiny_stage1", *processes, workers=workers)
    first = tmp_path / "whole/uniportrait/tiny_stage1/weights/last.safetensors"
    words = [f"stage.init_from={first}", *processes]
    check_stage(repository, photos, tmp_path, "uniportrait/tiny_stage2", *words, workers=workers)


@pytest.mark.slow
def test_gradient_accumulation(repository, shards, tmp_path):
    words = ["trainer.accumulate_grad_batches=2", "data.samples_per_epoch=8"]
    check_stage(repository, shards, tmp_path, "aniportrait/tiny_stage1", *words, workers=2)
