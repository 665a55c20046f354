"""Signals in mid-run; the runs of test_resume.py end in other processes, these in this one."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from portraitgen.training.checkpoint import LastCheckpoint
from portraitgen.training.preemption import EXIT_CODE, Preempted, Preemption
from portraitgen.training.slurm import requeue_slurm_job
from tests.training import toy
from tests.training.test_resume import differences, read_checkpoint, read_log


class Interrupt(Callback):
    """Sends this process a signal within a batch."""

    def __init__(self, number: signal.Signals, batch: int) -> None:
        self.number = number
        self.batch = batch

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), self.number)


def saved_step(run: Path) -> int:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_the_step_is_finished_saved_and_the_run_left(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Preempted) as caught:
        toy.train(tmp_path, callbacks=[Interrupt(number, 1)], save_every=100)
    assert caught.value.code == EXIT_CODE == 75
    assert saved_step(tmp_path) == 2
    assert signal.getsignal(number) == before


def test_with_accumulated_gradients_the_whole_step_is_finished(tmp_path: Path) -> None:
    with pytest.raises(Preempted):
        toy.train(tmp_path, callbacks=[Interrupt(signal.SIGUSR1, 2)], accumulate=2, save_every=100)
    assert saved_step(tmp_path) == 2  # batches 2 and 3


def test_the_handler_that_was_there_is_called_once_the_checkpoint_is_written(tmp_path: Path) -> None:
    called: list[tuple[int, bool]] = []
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    before = signal.signal(signal.SIGUSR2, lambda number, frame: called.append((number, checkpoint.exists())))
    try:
        with pytest.raises(Preempted):
            toy.train(tmp_path, callbacks=[Interrupt(signal.SIGUSR2, 0)], save_every=100)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert called == [(signal.SIGUSR2, True)]


def interrupted(run: Path, preemption: Preemption, number: signal.Signals, batch: int) -> None:
    """A run with this callback, in a batch of which the signal comes."""
    usual = [c for c in toy.make_callbacks(run, save_every=100) if not isinstance(c, Preemption)]
    toy.train(run, trainer={"callbacks": [*usual, Interrupt(number, batch), preemption]})


def watched(run: Path, number: signal.Signals, batch: int) -> None:
    """The same as train.py starts it."""
    preemption = Preemption()
    with preemption.watching(until_exit=False):
        interrupted(run, preemption, number, batch)


def test_a_validation_that_was_due_at_the_last_step_is_made_up_for(tmp_path: Path) -> None:
    """The checkpoint is written before it, and the resumed run went on behind it."""
    preempted, untouched = tmp_path / "preempted", tmp_path / "untouched"
    options: dict[str, Any] = {"save_every": 100, "every_steps": 5, "trainer": {"max_steps": 8}}
    toy.train(untouched, **options)
    with pytest.raises(Preempted):
        toy.train(preempted, callbacks=[Interrupt(signal.SIGUSR1, 4)], **options)  # validates every 5
    assert read_log(preempted)[-1]["step"] == "5"
    assert "val/loss" not in read_log(preempted)[-1]
    toy.train(preempted, **options)
    assert read_log(preempted) == read_log(untouched)
    assert read_log(preempted)[0]["val/loss"]
    assert not differences(read_checkpoint(preempted), read_checkpoint(untouched))


class InterruptValidation(Callback):
    """Sends this process a signal within a batch of a validation, and tells how many batches there were."""

    def __init__(self, number: signal.Signals, step: int) -> None:
        self.number, self.step, self.batches = number, step, 0

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self.step:
            self.batches += 1
            if self.batches == 1:
                os.kill(os.getpid(), self.number)


def test_a_validation_is_abandoned_and_due_again(tmp_path: Path) -> None:
    """It may take longer than SLURM waits, and averaged weights stand in for those that train."""
    preempted, untouched, stopped = tmp_path / "preempted", tmp_path / "untouched", tmp_path / "stopped"
    options: dict[str, Any] = {"save_every": 100, "every_steps": 2, "trainer": {"max_steps": 8}}
    options["trainer"]["val_check_interval"] = 2
    toy.train(untouched, **options)
    with pytest.raises(Preempted):  # between the steps
        toy.train(stopped, callbacks=[Interrupt(signal.SIGUSR1, 3)], **options)
    interrupt = InterruptValidation(signal.SIGUSR1, 4)
    with pytest.raises(Preempted) as caught:
        toy.train(preempted, callbacks=[interrupt], **options)
    assert caught.value.code == EXIT_CODE
    assert interrupt.batches == 1, "of two"
    # The count of a validation's own batches begins anew with each, and is all that differs.
    different = differences(read_checkpoint(preempted), read_checkpoint(stopped))
    assert not [path for path in different if "val_loop.batch_progress" not in path]
    assert not read_log(preempted)[-1].get("val/loss")
    toy.train(preempted, **options)
    assert read_log(preempted) == read_log(untouched)
    assert not differences(read_checkpoint(preempted), read_checkpoint(untouched))


def test_a_validation_that_is_made_up_for_is_abandoned_too(tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_every": 100, "trainer": {"max_steps": 8, "val_check_interval": 2}}
    for callback in (Interrupt(signal.SIGUSR1, 3), InterruptValidation(signal.SIGUSR1, 4)):
        with pytest.raises(Preempted):
            toy.train(tmp_path, callbacks=[callback], **options)
        assert saved_step(tmp_path) == 4
    toy.train(tmp_path, **options)
    toy.train(tmp_path / "untouched", **options)
    assert not differences(read_checkpoint(tmp_path), read_checkpoint(tmp_path / "untouched"))


def test_the_validation_of_the_last_step_is_not_abandoned(tmp_path: Path) -> None:
    toy.train(
        tmp_path,
        callbacks=[InterruptValidation(signal.SIGUSR1, 6)],
        every_steps=2,
        trainer={"val_check_interval": 2},
    )
    assert read_log(tmp_path)[-1]["val/loss"]


def test_before_the_first_step_the_run_leaves_at_once() -> None:
    """The signal's own action would have ended the job for good."""

    def start() -> None:
        with Preemption().watching(until_exit=False):
            os.kill(os.getpid(), signal.SIGUSR1)
            pytest.fail("the signal was not minded")

    with pytest.raises(Preempted):
        start()


def test_a_signal_behind_the_last_step_leaves_a_finished_run_finished(tmp_path: Path) -> None:
    """A stage that waits for this one (afterok) would never have started."""
    preemption = Preemption()
    with preemption.watching(until_exit=False):
        interrupted(tmp_path, preemption, signal.SIGUSR1, 5)
        os.kill(os.getpid(), signal.SIGUSR1)
    assert saved_step(tmp_path) == 6


def test_a_second_signal_while_it_leaves_changes_nothing(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def run() -> None:
        preemption = Preemption()
        with preemption.watching(until_exit=False):
            try:
                interrupted(tmp_path, preemption, signal.SIGUSR1, 1)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted) as caught:
        run()
    assert caught.value.code == EXIT_CODE
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_saves_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Preempted) as caught:
        watched(tmp_path, signal.SIGINT, 1)
    assert caught.value.code == 130
    assert saved_step(tmp_path) == 2
    assert "once more stops at once" in caplog.text
    assert "stopped by SIGINT at step 2, saved" in caplog.text


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Puts a `scontrol` on the PATH that says what it is told of a job; gives its other calls so far."""
    program, calls = tmp_path / "bin" / "scontrol", tmp_path / "calls"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "42")

    def says(facts: str) -> list[str]:
        calls.unlink(missing_ok=True)
        program.write_text(
            f'#!/bin/sh\ncase "$*" in *"show job"*) echo "{facts}";; *) echo "$@" >> {calls};; esac\n'
        )
        program.chmod(0o755)
        return []

    says.calls = lambda: calls.read_text().splitlines() if calls.exists() else []  # type: ignore[attr-defined]
    return says


RUNNING = "JobId=42 JobState=RUNNING Restarts=0 PreemptTime=None"


@pytest.mark.parametrize(
    ("number", "facts", "requeued"),
    [
        (signal.SIGUSR1, RUNNING, True),
        (signal.SIGUSR2, RUNNING, True),
        (signal.SIGTERM, "JobId=42 JobState=RUNNING Restarts=0 PreemptTime=2026-01-01T00:00:00", True),
        (signal.SIGTERM, "JobId=42 JobState=COMPLETING Restarts=0 PreemptTime=None", False),  # scancel
        (
            signal.SIGTERM,
            "JobId=42 JobState=COMPLETING Restarts=1 PreemptTime=None",
            False,
        ),  # is queued already
        (signal.SIGINT, RUNNING, False),
    ],
)
def test_what_the_cluster_stops_comes_back_and_what_a_person_stops_does_not(
    tmp_path: Path, scontrol: Any, number: signal.Signals, facts: str, requeued: bool
) -> None:
    scontrol(facts)
    with pytest.raises(Preempted):
        watched(tmp_path / "run", number, 1)
    assert scontrol.calls() == (["requeue 42"] if requeued else [])
    assert saved_step(tmp_path / "run") == 2


def test_a_task_of_an_array_is_named_by_its_array(scontrol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol(RUNNING)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "41")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    requeue_slurm_job()
    assert scontrol.calls() == ["requeue 41_7"]


def test_what_is_queued_already_is_said_to_be(scontrol: Any, caplog: pytest.LogCaptureFixture) -> None:
    scontrol("JobId=42 Restarts=1 PreemptTime=None")
    requeue_slurm_job()
    assert scontrol.calls() == []
    assert "job 42 is in the queue again" in caplog.text


def test_jobs_of_submitit_are_left_to_it(scontrol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both put a trial of a sweep into the queue: it ran twice at a time."""
    scontrol(RUNNING)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    requeue_slurm_job()
    assert scontrol.calls() == []


def test_a_failing_scontrol_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    requeue_slurm_job()
    assert "could not requeue job 42, submit it again" in caplog.text


def test_ranks_compare_their_flags_more_often_where_steps_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps may take longer than the time between signal and kill."""
    clock = iter([0.0, 6.0, 6.1])
    monkeypatch.setattr("portraitgen.training.preemption.time.monotonic", lambda: next(clock))
    strategy = SimpleNamespace(root_device="cpu", reduce=lambda told, reduce_op: told)
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy)
    preemption, asked = Preemption(agree_every_s=15), []
    preemption._agree_soon()
    for _ in range(4):
        preemption._asked(trainer)
        asked.append(preemption._agree_at)
    assert asked == [2, 4, 4, 14]  # at once, as 6 s a step leave time for, and at most every 10


def test_without_a_checkpoint_to_save_through_it_says_so(tmp_path: Path) -> None:
    callbacks = [c for c in toy.make_callbacks(tmp_path) if not isinstance(c, LastCheckpoint)]
    with pytest.raises(ValueError, match=r"callbacks\.last_checkpoint, which is switched off"):
        toy.train(tmp_path, trainer={"callbacks": callbacks})


def test_unknown_signals_are_refused() -> None:
    with pytest.raises(ValueError, match="no signal SIGNONE"):
        Preemption(signals=["SIGUSR1", "SIGNONE"])
