"""Signals in mid-run; the runs of test_resume.py end in other processes, these in this one."""

import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from portraitgen.training.checkpoint import LastCheckpoint
from portraitgen.training.preemption import EXIT_CODE, Preempted, Preemption, requeue_slurm_job
from tests.training import toy


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


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({"SLURM_JOB_ID": "42"}, "42"),
        ({"SLURM_JOB_ID": "43", "SLURM_ARRAY_JOB_ID": "42", "SLURM_ARRAY_TASK_ID": "7"}, "42_7"),
    ],
)
def test_a_slurm_job_is_put_into_the_queue_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], job: str
) -> None:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    requeue_slurm_job()
    assert (tmp_path / "calls").read_text() == f"requeue {job}\n"


def test_a_failing_scontrol_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    requeue_slurm_job()
    assert "could not requeue job 42, submit it again" in caplog.text


def test_without_a_checkpoint_to_save_through_it_says_so(tmp_path: Path) -> None:
    callbacks = [c for c in toy.make_callbacks(tmp_path) if not isinstance(c, LastCheckpoint)]
    with pytest.raises(ValueError, match=r"callbacks\.last_checkpoint, which is not there"):
        toy.train(tmp_path, trainer={"callbacks": callbacks})


def test_unknown_signals_are_refused() -> None:
    with pytest.raises(ValueError, match="no signal SIGNONE"):
        Preemption(signals=["SIGUSR1", "SIGNONE"])
