"""Rounds of grading: when they come, what they leave, which weights are the best, and what a kill changes."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer

from portraitgen.metrics.protocol import Protocol, VideoFacts
from portraitgen.metrics.results import Results, aggregate
from portraitgen.metrics.saved import load_results
from portraitgen.metrics.scores import COPY_REFERENCE, GENERATED, TRUTH, MetricInfo, Row
from portraitgen.training.ema import averaged_weights
from portraitgen.training.generator import Generator
from portraitgen.training.grading import Grading, control_checks, rounds
from portraitgen.training.preemption import EXIT_CODE, Preempted
from portraitgen.training.weights import load_facts, load_weights
from tests.training import toy
from tests.training.test_resume import differences

METRICS = {
    "norm": MetricInfo("Norm", "", 3, False, "of the first layer"),
    "scripted": MetricInfo("Scripted", " dB", 1, True, "what the test says"),
    "aimless": MetricInfo("Aimless", "", 1, None, "has no better side"),
}
BEST = ("norm", "scripted")
WEIGHT = "denoiser.conv_in.weight"


class ToyGrading(Grading):
    """Two clips, graded by the weights that are in place and by a script: step → value, None is missing."""

    def __init__(self, folder: Path, *, script: Sequence[float | None] = (), **settings: Any) -> None:
        settings = {"every_steps": 1, "best": BEST, **settings}
        super().__init__(folder, metrics=METRICS, **settings)
        self.script = dict(enumerate(script, start=1))
        self.signal_at: int | None = None
        self.number = signal.SIGUSR1

    def grade(self, trainer: Trainer, module: Generator, folder: Path) -> Results:
        with averaged_weights(trainer):
            norm = float(module.network.get_parameter(WEIGHT).norm())
        value = self.script.get(trainer.global_step, 0.0)
        rows = []
        for clip, more in (("a", 0.0), ("b", 1e-3)):
            frames = np.arange(2)
            scripted = np.array([np.nan if value is None else value, value or 0.0])
            scores = {"norm": np.full(2, norm + more), "scripted": scripted, "aimless": np.ones(2)}
            reasons = {"scripted": "no face"} if value is None else {}
            rows.append(Row(clip, GENERATED, frames, scores, reasons))
            rows.append(Row(clip, COPY_REFERENCE, frames, {"scripted": np.full(2, 3.0)}))
            rows.append(Row(clip, TRUTH, frames, {"aimless": np.zeros(2)}))
            (folder / "generated").mkdir(parents=True, exist_ok=True)
            if trainer.global_step == self.signal_at:
                os.kill(os.getpid(), self.number)
            self.mind_signals(trainer)
        if trainer.is_global_zero:
            (folder / "generated/a.mp4").write_bytes(b"clip")
        facts = tuple(VideoFacts(clip, 2, 25.0, 16, 16, "0") for clip in "ab")
        protocol = Protocol(facts, "all", "none", "none", "toy", 0.0)
        return aggregate(rows, metrics=METRICS, protocol=protocol, checks=control_checks(METRICS))

    def drop_clips(self, folder: Path) -> None:
        shutil.rmtree(folder / "generated", ignore_errors=True)


class Killed(Callback):
    """Ends the run without any clean-up, as the last callback of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


def callbacks(run: Path, grading: Grading, **settings: Any) -> list[Callback]:
    """Those of a run, in the order of conf/callbacks."""
    found = toy.make_callbacks(run, **settings)
    place = next(i for i, each in enumerate(found) if type(each).__name__ == "WeightsExport")
    return [*found[:place], grading, *found[place:]]


def train(
    run: Path,
    *,
    killed: int | None = None,
    signal_at: int | None = None,
    number: signal.Signals = signal.SIGUSR1,
    trainer: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    script = settings.pop("script", ())
    grading = ToyGrading(run / "graded", script=script, **settings)
    grading.signal_at, grading.number = signal_at, number
    found = callbacks(run, grading, every_steps=1, save_every=2)
    if killed is not None:
        found.append(Killed(killed))
    return toy.train(run, trainer={"callbacks": found, **(trainer or {})})


def rows(run: Path) -> dict[int, dict[str, float]]:
    with (run / "metrics.csv").open(newline="") as file:
        return {
            int(row["step"]): {
                name: float(value) for name, value in row.items() if value and not name.startswith("perf/")
            }
            for row in csv.DictReader(file)
        }


def test_figures_intervals_and_controls_are_logged(tmp_path: Path) -> None:
    train(tmp_path, script=[1, 2, 4, 3, 2, 2])
    logged = rows(tmp_path)
    assert [step for step, row in logged.items() if "grade/norm" in row] == [1, 2, 3, 4, 5, 6]
    assert logged[3]["grade/scripted"] == 4
    assert logged[3]["grade/scripted.copy_reference"] == 3
    assert (logged[2]["grade/scripted.beaten"], logged[3]["grade/scripted.beaten"]) == (1, 0)
    assert logged[3]["grade/aimless.truth"] == 0
    assert "grade/aimless.beaten" not in logged[3], "neither more nor less is better"
    assert logged[3]["grade/norm.low"] < logged[3]["grade/norm"] < logged[3]["grade/norm.high"]
    with (tmp_path / "metrics.csv").open() as file:
        assert {"perf/grading_s", "perf/grading_share"} <= set(file.readline().strip().split(","))
    saved = load_results(rounds(tmp_path / "graded")[3])
    assert {row.method for row in saved.rows} == {GENERATED, COPY_REFERENCE, TRUTH}


def test_the_best_weights_are_averages_of_their_step(tmp_path: Path) -> None:
    train(tmp_path, script=[1, 2, 4, 3, 2, 2])
    listed = json.loads((tmp_path / "graded/best.json").read_text())
    assert listed["scripted"]["step"] == 3
    path = tmp_path / "weights/best_scripted.safetensors"
    tensors, facts = load_weights(path)
    assert facts["step"] == 3
    assert facts["graded"]["value"] == 4
    assert facts["graded"]["definition"] == METRICS["scripted"].definition
    assert load_results(rounds(tmp_path / "graded")[3]).rows[0].scores["norm"][0] == pytest.approx(
        float(tensors[WEIGHT].norm()), rel=1e-6
    )
    kept = [step for step, each in rounds(tmp_path / "graded").items() if (each / "generated").exists()]
    assert kept == sorted({listed["norm"]["step"], 3, 6}), "clips of the best and the last round"
    assert not (tmp_path / "weights/reserve").exists()


def test_fewer_missing_values_come_before_the_mean(tmp_path: Path) -> None:
    train(tmp_path, script=[None, 1, 2, None, 2, 1.5])
    assert json.loads((tmp_path / "graded/best.json").read_text())["scripted"]["step"] == 3


def test_a_choice_by_some_of_the_frames_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Which round has the most faces is chance where few drawn frames show one."""
    caplog.set_level("INFO")
    train(tmp_path, script=[None, 1, 2, 2, 2, 2])
    assert "scripted 0.0 dB (best, by 2 of 4 frames)" in caplog.text
    assert "scripted 1.0 dB (best)" in caplog.text


def test_grading_does_not_change_the_training(tmp_path: Path) -> None:
    graded = train(tmp_path / "graded").state_dict()
    plain = toy.train(tmp_path / "plain", every_steps=1, save_every=2).state_dict()
    assert all(torch.equal(graded[name], plain[name]) for name in plain)
    losses = [[row["train/loss"] for row in rows(tmp_path / each).values()] for each in ("graded", "plain")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("killed", [3, 5])
@pytest.mark.parametrize(
    "script",
    [
        pytest.param([1, 2, 3, 4, 5, 6], id="always-better"),
        pytest.param([1, 4, 5, 2, 3, 1], id="best-was-lost"),
        pytest.param([5, 4, 3, 2, 1, 0], id="first"),
    ],
)
def test_a_killed_run_has_the_same_figures_and_the_same_best_files(
    tmp_path: Path, script: list[float], killed: int
) -> None:
    """It goes on from step 2 or 4, and has lost a round, perhaps the best one."""
    train(tmp_path / "whole", script=script)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "again", script=script, killed=killed)
    train(tmp_path / "again", script=script)
    assert rows(tmp_path / "whole") == rows(tmp_path / "again")
    for name in (*(f"weights/best_{figure}.safetensors" for figure in BEST), "graded/best.json"):
        one, other = ((tmp_path / run / name).read_bytes() for run in ("whole", "again"))
        assert one == other, name


def test_what_was_the_best_at_the_checkpoint_is_back_when_the_run_goes_on(tmp_path: Path) -> None:
    """The round that beat it is lost with the steps behind the checkpoint, and may come out otherwise."""
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, script=[1, 4, 5, 2, 3, 1], killed=3)
    best = tmp_path / "weights/best_scripted.safetensors"
    assert load_facts(best)["step"] == 3
    train(tmp_path, script=[1, 4, 3, 2, 3, 1])
    assert load_facts(best)["step"] == 2
    assert load_facts(best)["graded"]["value"] == 4


def checkpoint(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return found


@pytest.mark.parametrize("killed", [None, 4])
@pytest.mark.parametrize(
    "script", [pytest.param([1, 4, 2, 5, 3, 1], id="best"), pytest.param([1, 4, 2, 3, 3, 5], id="not-best")]
)
def test_a_round_is_given_up_for_a_signal_and_made_when_the_run_goes_on(
    tmp_path: Path, script: list[float], killed: int | None
) -> None:
    """Of the same weights, whose best file survives a kill behind it: it waited for the whole round."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    train(whole, script=script)
    with pytest.raises(Preempted) as caught:
        train(again, script=script, signal_at=4)
    assert caught.value.code == EXIT_CODE
    assert checkpoint(again)["global_step"] == 4
    assert [*rounds(again / "graded")] == [1, 2, 3]
    assert "train/loss" in rows(again)[4]
    assert "grade/norm" not in rows(again)[4]
    assert load_facts(again / "weights/last.safetensors")["step"] == 4, "what else is due is done"
    if killed is not None:
        with pytest.raises(RuntimeError, match="killed"):
            train(again, script=script, killed=killed)
    train(again, script=script)
    assert rows(whole) == rows(again)
    assert [*rounds(again / "graded")] == [1, 2, 3, 4, 5, 6]
    for name in (*(f"weights/best_{figure}.safetensors" for figure in BEST), "graded/best.json"):
        assert (whole / name).read_bytes() == (again / name).read_bytes(), name
    assert not differences(checkpoint(whole)["callbacks"], checkpoint(again)["callbacks"])


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_round_that_is_made_first_is_given_up_for_another_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Between two clips, and the checkpoint of its step stays as it was."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    script = [1, 4, 2, 5, 3, 1]
    train(whole, script=script)
    for sent in (signal.SIGUSR1, number):
        with pytest.raises(Preempted) as caught:
            train(again, script=script, signal_at=4, number=sent)
        assert caught.value.code == EXIT_CODE
        assert checkpoint(again)["global_step"] == 4
        assert [*rounds(again / "graded")] == [1, 2, 3]
    train(again, script=script)
    assert rows(whole) == rows(again)
    assert not differences(checkpoint(whole)["callbacks"], checkpoint(again)["callbacks"])


def test_a_round_that_ends_the_run_does_so_where_it_was_given_up(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"script": [1, 2, 2, 2, 9, 9], "stop_by": "scripted", "patience": 2}
    with pytest.raises(Preempted):
        train(tmp_path, signal_at=4, **settings)
    train(tmp_path, **settings)
    assert [*rows(tmp_path)] == [1, 2, 3, 4]
    assert load_facts(tmp_path / "weights/last.safetensors")["step"] == 4


def test_the_round_of_the_last_step_is_finished(tmp_path: Path) -> None:
    train(tmp_path, script=[1] * 6, signal_at=6)
    assert "grade/norm" in rows(tmp_path)[6]


def test_a_damaged_best_file_is_looked_for_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, script=[1, 4, 3, 2, 3, 1], killed=4)
    best = tmp_path / "weights/best_scripted.safetensors"
    best.write_bytes(best.read_bytes()[:-1])
    train(tmp_path, script=[1, 4, 3, 2, 3, 1])
    assert "best_scripted.safetensors of step 2 is gone or has changed" in caplog.text
    assert load_facts(best)["step"] == 5


def test_a_figure_ends_the_run_and_a_second_start_leaves_it_ended(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"script": [1, 2, 2, 2, 9, 9], "stop_by": "scripted", "patience": 2}
    train(tmp_path, **settings)
    assert [*rows(tmp_path)] == [1, 2, 3, 4]
    assert load_facts(tmp_path / "weights/last.safetensors")["step"] == 4
    before = rows(tmp_path)
    train(tmp_path, **settings)
    assert rows(tmp_path) == before
    train(tmp_path, **{**settings, "stop_by": None})
    assert [*rows(tmp_path)] == [1, 2, 3, 4, 5, 6], "without it the run goes on"


def test_patience_is_counted_on_by_a_resumed_run(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"script": [2, 1, 1, 1, 1, 1], "stop_by": "scripted", "patience": 3}
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, killed=3, **settings)
    train(tmp_path, **settings)
    assert [*rows(tmp_path)] == [1, 2, 3, 4]


def test_other_graders_begin_the_best_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, script=[9] * 6, trainer={"max_steps": 4})
    monkeypatch.setitem(METRICS, "scripted", MetricInfo("Scripted", " dB", 1, True, "another definition"))
    train(tmp_path, script=[1] * 6)
    assert json.loads((tmp_path / "graded/best.json").read_text())["scripted"]["step"] == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"best": ["scriptd"]}, r"callbacks\.grading\.best: no grader gives 'scriptd'.*norm, scripted"),
        ({"stop_by": "aimless"}, r"callbacks\.grading\.stop_by: of 'aimless' neither more nor less"),
        ({"every_steps": 0}, r"callbacks\.grading\.every_steps is 0"),
        ({"patience": 0}, r"callbacks\.grading\.patience is 0"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ToyGrading(tmp_path, **settings)
