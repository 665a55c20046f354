"""A run that was stopped, killed or preempted and started again ends as one that was left alone."""

import csv
import signal
import time
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import AdamW

from portraitgen.training.optim import warmup_cosine
from portraitgen.training.preemption import EXIT_CODE
from tests.training import toy

LAST = "checkpoints/last.ckpt"
STEPS = 16
TRAINER = {"max_steps": STEPS}


@pytest.fixture(autouse=True)
def _importable_in_processes(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    """Processes get this process's sys.path and import `toy` by its name."""
    monkeypatch.syspath_prepend(str(repository))


def read_checkpoint(run: Path) -> dict[str, Any]:
    return torch.load(run / LAST, weights_only=True)


def differences(one: Any, two: Any, name: str = "checkpoint") -> list[str]:
    """Names of all leaves of two checkpoints that are not equal, bit for bit."""
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return [d for key in one for d in differences(one[key], two[key], f"{name}.{key}")]
    if isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        pairs = enumerate(zip(one, two, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{name}[{i}]")]
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return [] if torch.equal(one, two) else [name]
    return [] if one == two else [name]


def read_log(run: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without what depends on the clock."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]


def assert_same_result(run: Path, untouched: Path) -> None:
    assert not differences(read_checkpoint(run), read_checkpoint(untouched))
    assert read_log(run) == read_log(untouched)
    for file in untouched.glob("weights/*"):
        assert (run / "weights" / file.name).read_bytes() == file.read_bytes()
    assert not list(run.glob("**/.*.tmp"))


def wait_for_step(run: Path, step: int, processes: list[BaseProcess]) -> None:
    """Return as soon as the run has logged `step`."""
    log, deadline = run / "metrics.csv", time.monotonic() + 120
    while not log.is_file() or max(int(row["step"]) for row in read_log(run)) < step:
        assert all(process.is_alive() for process in processes), [p.read_text() for p in run.glob("*.log")]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill_at(run: Path, step: int, processes: list[BaseProcess]) -> None:
    """kill -9 all processes, wherever they are, some time after `step`."""
    wait_for_step(run, step, processes)
    for process in processes:
        process.kill()
    assert toy.finish(processes) == [-signal.SIGKILL] * len(processes)


@pytest.mark.parametrize("world_size", [1, 2])
def test_killed_run_ends_bit_identical(tmp_path: Path, world_size: int) -> None:
    untouched, killed = tmp_path / "untouched", tmp_path / "killed"
    options = {"world_size": world_size, "samples": world_size == 1, "trainer": TRAINER}
    assert toy.finish(toy.start(untouched, **options)) == [0] * world_size

    kill_at(killed, 3, toy.start(killed, num_workers=2, callbacks=[toy.Unhurried()], **options))
    kill_at(killed, 9, toy.start(killed, num_workers=0, callbacks=[toy.Unhurried()], **options))
    assert toy.finish(toy.start(killed, num_workers=2, **options)) == [0] * world_size

    assert_same_result(killed, untouched)
    for picture in untouched.glob("samples/*"):
        assert (killed / "samples" / picture.name).read_bytes() == picture.read_bytes()


@pytest.mark.parametrize("world_size", [1, 2])
def test_preempted_run_leaves_with_its_checkpoint_and_ends_bit_identical(
    tmp_path: Path, world_size: int
) -> None:
    untouched, preempted = tmp_path / "untouched", tmp_path / "preempted"
    options = {"world_size": world_size, "accumulate": 2, "save_every": 100, "trainer": TRAINER}
    toy.finish(toy.start(untouched, **options))

    processes = toy.start(preempted, callbacks=[toy.Unhurried()], **options)
    wait_for_step(preempted, 3, processes)
    processes[-1].terminate()  # one rank only
    assert toy.finish(processes) == [EXIT_CODE] * world_size
    assert 3 <= read_checkpoint(preempted)["global_step"] < STEPS
    toy.finish(toy.start(preempted, **options))

    assert_same_result(preempted, untouched)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("stops", [(7, 14), (1, 5, 8)], ids=["at epoch ends", "elsewhere"])
def test_run_continued_with_more_steps_ends_bit_identical(
    tmp_path: Path, stops: tuple[int, ...], accumulate: int
) -> None:
    # 7 batches an epoch, validation every 5 steps.
    for steps in (*stops, STEPS):
        toy.train(tmp_path / "stopped", trainer={"max_steps": steps}, accumulate=accumulate)
    toy.train(tmp_path / "whole", trainer={"max_steps": STEPS}, accumulate=accumulate)

    assert not differences(read_checkpoint(tmp_path / "stopped"), read_checkpoint(tmp_path / "whole"))


def test_epochs_are_counted_on_when_each_was_interrupted_at_its_end(tmp_path: Path) -> None:
    class Crash(Callback):
        def __init__(self, step: int) -> None:
            self.step = step

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.global_step == self.step:
                raise KeyError("crash")

    epochs = {"max_epochs": 3, "max_steps": -1}
    for step in (7, 14):
        with pytest.raises(KeyError, match="crash"):
            toy.train(tmp_path / "stopped", trainer=epochs, save_every=7, callbacks=[Crash(step)])
    toy.train(tmp_path / "stopped", trainer=epochs, save_every=7)
    toy.train(tmp_path / "whole", trainer=epochs, save_every=7)

    assert not differences(read_checkpoint(tmp_path / "stopped"), read_checkpoint(tmp_path / "whole"))
    assert read_log(tmp_path / "stopped") == read_log(tmp_path / "whole")


def test_finished_run_started_again_changes_nothing(tmp_path: Path) -> None:
    toy.train(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    toy.train(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_without_step_seed_a_resumed_run_would_differ(tmp_path: Path) -> None:
    """The noise, times and dropout of these runs are random: the tests above would notice."""

    class Unseed(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            torch.seed()

    one = toy.train(tmp_path / "one", callbacks=[Unseed()])
    two = toy.train(tmp_path / "two", callbacks=[Unseed()])
    assert differences(one.state_dict(), two.state_dict())


@pytest.mark.parametrize("lr_scheduler", [None, partial(warmup_cosine, warmup_steps=2, total_steps=20)])
def test_a_run_goes_on_as_its_changed_optimizer_says(tmp_path: Path, lr_scheduler: Any) -> None:
    """Lightning puts the rate of the checkpoint into the optimizer and its schedule."""
    toy.train(tmp_path, trainer={"max_steps": 3})
    generator = toy.make_generator(
        optimizer=partial(AdamW, lr=0.5, weight_decay=0.2), lr_scheduler=lr_scheduler
    )
    generator.may_change = True
    toy.train(tmp_path, generator=generator, trainer={"max_steps": 4})
    state = read_checkpoint(tmp_path)
    expected = 0.5
    if lr_scheduler is not None:
        fresh = AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        expected *= lr_scheduler(fresh).lr_lambdas[0](4)
    decays, plain = state["optimizer_states"][0]["param_groups"]
    assert decays["lr"] == plain["lr"] == pytest.approx(expected)
    assert (decays["weight_decay"], plain["weight_decay"]) == (0.2, 0.0)


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    toy.train(tmp_path, trainer={"max_steps": 3})
    path = tmp_path / LAST
    state = read_checkpoint(tmp_path)
    torch.save({**state, "processes": 2}, path)
    with pytest.raises(ValueError, match=r"started with 2 process\(es\), and now there are 1"):
        toy.train(tmp_path)
