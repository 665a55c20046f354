"""Clips graded while training: figures are those of generate.py and evaluate.py, none judges itself."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import wandb
from hydra import compose, initialize_config_dir

from portraitgen.data.shards import ShardWriter
from portraitgen.faces.recognition.recognizer import load_recognition
from portraitgen.media.public_weights import file_digest
from portraitgen.metrics.saved import load_results
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.evaluate.evaluate import grade_and_report
from portraitgen.runs.evaluate.history import show_history
from portraitgen.runs.evaluate.sources.samples import GeneratedSamples
from portraitgen.runs.generate.generate import generate
from portraitgen.runs.train.clip_grading import ClipGrading
from portraitgen.runs.train.train import train
from portraitgen.systems.aniportrait.inputs import Inputs
from portraitgen.systems.aniportrait.module import AniPortrait
from portraitgen.training.preemption import EXIT_CODE
from portraitgen.training.throughput import Throughput
from portraitgen.training.weights import load_facts, load_weights
from tests.metrics.report.html_page import Page
from tests.run_loggers import read_tensorboard, read_wandb
from tests.strategy_run import run as run_strategy
from tests.synthetic import synthetic_clip
from tests.test_resume import finish, start

EXPERIMENT = "aniportrait/tiny_stage1"
GRADERS = ["landmarks", "mouth"]
RUN = [
    "callbacks=grading",
    "callbacks.samples=null",
    "callbacks.grading.num_clips=3",
    "callbacks.grading.frames=3",
    "callbacks.grading.num_steps=2",
    "callbacks.grading.best=[psnr]",
    "callbacks.weights.every_steps=1",
    "data.val_samples=1",
    "data.batch_size=1",
    "data.val_span=[0.5,1.0]",
    "data.train_span=[0.0,0.5]",
    "sampling.num_steps=1",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A pattern of two shards with three drawn faces."""
    root = tmp_path_factory.mktemp("data")
    with ShardWriter(root, "train", max_samples=2) as writer:
        for seed in range(3):
            valid = np.ones(16, bool)
            writer.write(synthetic_clip(f"face{seed}", num_frames=16, size=64, seed=seed, valid=valid))
    return root / "shards/train-*.tar"


@pytest.fixture
def runs(shards, tmp_path):
    """Trains a tiny run of a name, and gives its folder."""

    def runs(name, *overrides):
        composed = [f"experiment={EXPERIMENT}", f"data.shards={shards}", f"paths.runs={tmp_path}", *RUN]
        train(composed_config("train", *composed, f"name={name}", *overrides))
        return tmp_path / name

    yield runs
    torch.use_deterministic_algorithms(False)


def composed_config(command, *overrides):
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, [*overrides])


def logged(run: Path) -> dict[int, dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): {k: v for k, v in row.items() if v} for row in csv.DictReader(file)}


def graded(run: Path) -> dict[int, dict[str, str]]:
    return {
        step: {name: value for name, value in row.items() if name.startswith("grade/")}
        for step, row in logged(run).items()
    }


def test_figures_are_those_that_evaluate_gives_of_the_saved_weights(runs, shards, tmp_path):
    """All of them, of every video, frame and control, and under one protocol."""
    run = runs("run", "trainer.max_steps=2", "callbacks.grading.every_steps=1")
    assert_figures_of_evaluate(run, shards, tmp_path / "generated")
    stated = [
        json.loads((folder / "results.json").read_text())
        for folder in (run / "graded/step_00000002", tmp_path / "generated/report")
    ]
    assert stated[0]["intervals"] == stated[1]["intervals"]
    assert float(graded(run)[2]["grade/psnr"]) == stated[1]["psnr"]


def assert_figures_of_evaluate(run: Path, shards: Path, out: Path) -> None:
    """Of step 2 and its weights file."""
    given = [f"weights={run}/weights/step_00000002.safetensors", f"shards={shards}", f"out={out}"]
    same = ["span=[0.5,1.0]", "limit=3", "frames=3", "sampling.num_steps=2"]
    generate(composed_config("generate", *given, *same))
    grade_and_report(composed_config("evaluate", f"generated={out}", "metrics=self_reenactment"))
    here, there = load_results(run / "graded/step_00000002"), load_results(out / "report")
    assert here.protocol["fingerprint"] == there.protocol["fingerprint"]
    assert [(row.video, row.method) for row in here.rows] == [(row.video, row.method) for row in there.rows]
    compared = 0
    for one, other in zip(here.rows, there.rows, strict=True):
        assert one.failure == other.failure
        assert one.scores.keys() == other.scores.keys()
        for name, values in one.scores.items():
            np.testing.assert_array_equal(values, other.scores[name], err_msg=f"{one.video} {name}")
            compared += int(np.isfinite(values).sum())
    assert compared > 50


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_zero3"])
def test_clips_are_graded_of_the_averages_of_all_processes(shards, tmp_path, strategy):
    """Each has but a part of them: the figures are those of the whole weights file all the same."""
    if strategy != "fsdp":
        pytest.importorskip("deepspeed")
    words = [f"experiment={EXPERIMENT}", f"data.shards={shards}", f"paths.runs={tmp_path}", "name=run", *RUN]
    words += ["trainer.max_steps=2", "callbacks.grading.every_steps=1", "callbacks.ema.decay=0.9"]
    run_strategy([*words, f"strategy={strategy}"], tmp_path / "said", processes=2)
    run = tmp_path / "run"
    assert_figures_of_evaluate(run, shards, tmp_path / "generated")
    assert len(logged(run)) == 2
    found = {"step_00000001", "step_00000002", "best.json"}
    assert {path.name for path in (run / "graded").iterdir()} == found
    step = json.loads((run / "graded/best.json").read_text())["psnr"]["step"]
    names = ("best_psnr.safetensors", f"step_{step:08d}.safetensors")
    best, whole = (load_weights(run / "weights" / name)[0] for name in names)
    assert best.keys() == whole.keys()
    assert all(torch.equal(best[name], whole[name]) for name in whole)


def test_training_goes_on_as_if_nothing_had_been_graded(runs):
    with_grading = runs("with", "trainer.max_steps=3", "callbacks.grading.every_steps=1")
    without = runs("without", "trainer.max_steps=3", "callbacks.grading=null")
    losses = [[row["train/loss"] for row in logged(run).values()] for run in (with_grading, without)]
    assert losses[0] == losses[1]
    weights = [load_weights(run / "weights/last.safetensors")[0] for run in (with_grading, without)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert not (without / "graded").exists()


@pytest.mark.parametrize("clips", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_two_processes_give_the_figures_of_one(runs, repository, shards, tmp_path, clips):
    """Of the same weights: at a rate of 0 they stay those of the start. One of them may have no clip."""
    still = ["trainer.max_steps=2", "callbacks.grading.every_steps=1", "optimizer.lr=0.0"]
    still.append(f"callbacks.grading.num_clips={clips}")
    one = runs("one", *still)
    words = [*RUN, *still, f"experiment={EXPERIMENT}", "name=two", "strategy=ddp", "trainer.devices=2"]
    finish(start(repository, shards, tmp_path, *words))
    assert graded(one) == graded(tmp_path / "two")
    assert len(graded(one)[2]) > 10
    results = [load_results(run / "graded/step_00000002") for run in (one, tmp_path / "two")]
    assert results[0].protocol["fingerprint"] == results[1].protocol["fingerprint"]
    settings = [each.protocol["settings"] for each in results]
    assert settings[0] == {**settings[1], "weights": str(one / "weights")}
    tensors = [load_weights(run / "weights/best_psnr.safetensors")[0] for run in (one, tmp_path / "two")]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    # What is kept of the round can be graded again from its folder.
    grade_and_report(composed_config("evaluate", f"generated={tmp_path}/two/graded/step_00000002"))
    again = load_results(tmp_path / "two/graded/step_00000002/report")
    assert {row.video for row in again.rows} == {f"face{number}-000000000" for number in range(clips)}


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "later"), [(0, signal.SIGTERM), (1, signal.SIGUSR1)])
def test_a_signal_to_one_of_two_processes_ends_the_round_of_both(repository, shards, tmp_path, rank, later):
    """And again where the round is made first when the run goes on: there one left, and the other waited.

    The figures of the round that is made at last are those of a run that was left alone.
    """
    steps = ["trainer.max_steps=3", "callbacks.grading.every_steps=2", "callbacks.grading.num_steps=60"]
    words = [*RUN, *steps, f"experiment={EXPERIMENT}", "strategy=ddp", "trainer.devices=2"]
    finish(start(repository, shards, tmp_path, *words, "name=whole"))
    graded_now = tmp_path / "again/graded/step_00000002"
    for number in (signal.SIGUSR1, later):
        process = start(repository, shards, tmp_path, *words, "name=again")
        while not graded_now.is_dir():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        children = psutil.Process(process.pid).children()
        (second,) = [each for each in children if "train.py" in " ".join(each.cmdline())]
        (process, second)[rank].send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == EXIT_CODE, errors
        assert "step 2 is graded when the run goes on" in errors
        assert not graded_now.exists()
        psutil.wait_procs([second], timeout=60)
        assert not second.is_running()
    finish(start(repository, shards, tmp_path, *words, "name=again"))
    assert graded(tmp_path / "whole") == graded(tmp_path / "again")
    assert len(graded(tmp_path / "again")[2]) > 10
    tensors = [
        load_weights(tmp_path / run / "weights/best_psnr.safetensors")[0] for run in ("whole", "again")
    ]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_a_clip_that_cannot_be_read_changes_no_protocol(runs, monkeypatch, caplog):
    """What is best is not looked for anew because a file of one round was damaged."""
    results = ClipGrading._results

    def spoiled(self, trainer, processes, place, *rest, **more):
        if trainer.global_step == 2:
            samples = GeneratedSamples(place).samples
            (place / samples["face0-000000000"]["video"]).write_bytes(b"damaged")
        return results(self, trainer, processes, place, *rest, **more)

    monkeypatch.setattr(ClipGrading, "_results", spoiled)
    run = runs("run", "trainer.max_steps=3", "callbacks.grading.every_steps=1")
    found = [load_results(run / f"graded/step_{step:08d}") for step in (1, 2, 3)]
    assert len({each.protocol["fingerprint"] for each in found}) == 1
    assert any(row.failure for row in found[1].rows)
    assert not any(row.failure for row in found[2].rows)
    assert "taken otherwise" not in caplog.text
    assert json.loads((run / "graded/best.json").read_text())["psnr"]["step"] != 2, "a clip is missing"


def test_figures_come_in_bfloat16(runs):
    """By autocast, as samples are drawn: near those of float32, and not the same."""
    still = ["trainer.max_steps=1", "optimizer.lr=0.0", "callbacks.grading.num_clips=1"]
    found = [
        graded(runs(precision, *still, f"trainer.precision={precision}"))[1]
        for precision in ("bf16-mixed", "32-true")
    ]
    assert found[0].keys() == found[1].keys()
    one, other = (float(each["grade/psnr"]) for each in found)
    assert one != other
    assert one == pytest.approx(other, abs=0.5)


@pytest.fixture
def offline_wandb(monkeypatch):
    """W&B remembers the environment of its first use."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.skipif("WANDB_RUN_ID" in os.environ, reason="a run of W&B is going on")
def test_figures_and_their_intervals_are_in_tensorboard_and_wandb(runs, offline_wandb):
    """As they are in metrics.csv, read back from what both have written on the disk."""
    pytest.importorskip("tensorboard")
    words = ["trainer.max_steps=2", "callbacks.grading.every_steps=1", "callbacks.grading.num_clips=2"]
    run = runs("run", *words, "logger=[tensorboard,wandb]")
    here = {step: {name: float(value) for name, value in row.items()} for step, row in graded(run).items()}
    assert {"grade/psnr", "grade/psnr.low", "grade/psnr.high", "grade/psnr.copy_reference"} <= here[2].keys()
    assert here == read_wandb(run / "wandb", "grade/")
    board = read_tensorboard(run / "tensorboard", "grade/")
    assert board.keys() == here.keys()
    for step, row in here.items():
        assert board[step] == pytest.approx(row, rel=1e-6)


def test_a_killed_run_has_the_same_figures_and_the_same_best_file(runs, monkeypatch):
    words = ["trainer.max_steps=4", "callbacks.grading.every_steps=1", "callbacks.grading.num_clips=1"]
    words.append("callbacks.last_checkpoint.every_steps=2")
    whole = runs("whole", *words)

    def killed(self, trainer, *args):
        if trainer.global_step == 3:
            raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_start", killed)
        with pytest.raises(RuntimeError, match="killed"):
            runs("again", *words)
    again = runs("again", *words)
    assert graded(whole) == graded(again)
    best = [(run / "weights/best_psnr.safetensors") for run in (whole, again)]
    (one, said), (other, said_again) = map(load_weights, best)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert said == {**said_again, "run": "whole"}
    listed = [json.loads((run / "graded/best.json").read_text())["psnr"] for run in (whole, again)]
    assert [listed[0].pop("sha256"), listed[1].pop("sha256")] == [file_digest(each) for each in best]
    assert listed[0] == listed[1]
    # The page of the run: curves, and the best weights beside the last, playing.
    config = composed_config("evaluate_history", f"run={again}", f"out={again}/history")
    show_history(config)
    page = Page((again / "history/history.html").read_text())
    assert len(page.all("video")) == 1
    assert "last (step 4)" in "".join(page.said)
    assert "steps 1 to 4" in "".join(page.said)
    with (again / "history/history.csv").open(newline="") as file:
        told = {
            row["step"]: row["mean"]
            for row in csv.DictReader(file)
            if row["figure"] == "psnr" and row["method"] == "generated"
        }
    assert told == {str(step): row["grade/psnr"] for step, row in graded(again).items()}


def test_a_misspelt_figure_is_named_before_anything_is_built(runs):
    with pytest.raises(ValueError, match=r"optimized_metric: .*grade/pnsr; did you mean 'grade/psnr'"):
        runs("run", "optimized_metric=grade/pnsr")
    with pytest.raises(ValueError, match=r"callbacks\.grading\.best: no grader gives 'identity'"):
        runs("run", "callbacks.grading.best=[identity]")


def test_a_sweep_gets_one_figure_or_two(shards, tmp_path):
    given = [f"experiment={EXPERIMENT}", f"data.shards={shards}", f"paths.runs={tmp_path}", *RUN]
    given += ["trainer.max_steps=1", "name=run"]
    config = composed_config("train", *given, "optimized_metric=[grade/psnr,grade/ssim]")
    found = train(config)
    torch.use_deterministic_algorithms(False)
    row = graded(tmp_path / "run")[1]
    assert found == (float(row["grade/psnr"]), float(row["grade/ssim"]))
    config.optimized_metric = "grade/ssim"
    assert train(config) == found[1]


def test_the_recognizer_of_a_loss_or_condition_does_not_grade(runs, monkeypatch):
    digest = load_recognition("dlib").digest
    monkeypatch.setattr(AniPortrait, "condition_recognizers", {digest: "dlib"})
    message = rf"callbacks\.grading\.metrics\.graders\.identity looks with dlib \(SHA-256 {digest}\)"
    with pytest.raises(ValueError, match=message):
        runs("run", "trainer.max_steps=1")
    run = runs("other", "trainer.max_steps=1", "callbacks.grading.metrics.graders.identity=null")
    assert load_facts(run / "weights/last.safetensors")["recognizers"] == {digest: "dlib"}


def test_clips_of_which_nothing_can_be_drawn_are_said_to_be_so(runs, monkeypatch):
    """Such as clips that are too short for a system."""
    monkeypatch.setattr(Inputs, "of_clip", lambda *_: None)
    with pytest.raises(ValueError, match=r"callbacks\.grading: of no validation clip can anything be drawn"):
        runs("run", "trainer.max_steps=1")


def test_a_system_that_cannot_draw_in_other_steps_says_so_before_the_first_one(runs, monkeypatch):
    """It did after the first round's a thousand steps."""
    monkeypatch.setattr(
        AniPortrait, "make_pipeline", lambda _, sampling, *parts, **more: sampling(*parts, **more)
    )
    monkeypatch.setattr(AniPortrait, "training_step", lambda *_: pytest.fail("it trains"))
    with pytest.raises(ValueError, match="AniPortrait has no pipeline with num_steps"):
        runs("run", "trainer.max_steps=1")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.val_span=null"], "callbacks.grading: there are no clips to grade"),
        (["callbacks.weights=null"], "callbacks.grading: callbacks.weights is left out"),
        (["callbacks.grading=null", "optimized_metric=grade/psnr"], "add callbacks=grading"),
        (["optimized_metric=[val/loss,val/loss]"], "name a figure, or two"),
        (["callbacks.grading.frames=0"], "callbacks.grading.frames is 0"),
        (["callbacks.grading.num_clips=0"], "callbacks.grading.num_clips is 0"),
        (["callbacks.grading.num_steps=2000"], "callbacks.grading.num_steps: 2000, .* between 1 and 1000"),
        (["+callbacks.grading.framse=3"], "ClipGrading takes no such argument; did you mean .frames."),
    ],
)
def test_what_cannot_work_is_said_first(runs, overrides, message):
    with pytest.raises(ValueError, match=message):
        runs("run", *overrides)
