"""The file that a run resumes from."""

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils._pytree import tree_flatten

from portraitgen.training import export
from portraitgen.training.background import background_writer
from portraitgen.training.checkpoint import LastCheckpoint, find_resume
from portraitgen.training.checkpoint_file import (
    LAST,
    PREVIOUS,
    AtomicCheckpointIO,
    CheckpointError,
    keep,
    saved_step,
)
from tests.training import toy


def fail_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def disk_full(checkpoint: dict[str, Any], file: Any) -> None:
        if checkpoint["global_step"] == step:
            file.write(b"half")
            raise OSError("no space left")
        save(checkpoint, file)

    monkeypatch.setattr(torch, "save", disk_full)


def test_a_write_that_fails_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(6, monkeypatch)
    with pytest.raises(OSError, match="no space left"):
        toy.train(tmp_path)
    folder = tmp_path / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 3


class Steps(Callback):
    """Notes each step that ended, and lets somebody wait for one."""

    def __init__(self) -> None:
        self.made = 0
        self._next = threading.Condition()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        with self._next:
            self.made = trainer.global_step
            self._next.notify_all()

    def wait_for(self, step: int) -> None:
        with self._next:
            assert self._next.wait_for(lambda: self.made >= step, timeout=60), "training does not go on"


class Fourth(Callback):
    """Begins the fourth step when all that was begun before it is written, or has failed."""

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        while trainer.global_step == 3 and background_writer(trainer).is_busy:
            time.sleep(0.01)


def test_a_write_that_fails_ends_training_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(3, monkeypatch)
    steps = Steps()
    with pytest.raises(OSError, match="no space left"):
        toy.train(tmp_path, callbacks=[steps, Fourth()], trainer={"max_steps": 100}, save_every=3)
    assert steps.made in (3, 4), "the write may fail before the step that begins it has ended"
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_training_goes_on_while_a_checkpoint_of_its_step_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps later it holds what a run that ended there has left: not a bit of what was trained since."""
    toy.train(tmp_path / "short", trainer={"max_steps": 3})
    steps, save = Steps(), torch.save

    def slow(checkpoint: dict[str, Any], file: Any) -> None:
        if checkpoint["global_step"] == 3:
            steps.wait_for(5)
        save(checkpoint, file)

    monkeypatch.setattr(torch, "save", slow)
    toy.train(tmp_path / "long", callbacks=[steps])
    expected = torch.load(tmp_path / "short/checkpoints" / LAST, weights_only=True)
    found = torch.load(tmp_path / "long/checkpoints" / PREVIOUS, weights_only=True)
    assert expected.keys() == found.keys()
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "losses", "global_step"):
        (values, names), (others, other_names) = map(tree_flatten, (expected[part], found[part]))
        assert names == other_names, part
        same = (
            torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
            for a, b in zip(values, others, strict=True)
        )
        assert all(same), part


def test_one_checkpoint_is_written_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, written = torch.save, []

    def slow(checkpoint: dict[str, Any], file: Any) -> None:
        written.append(checkpoint["global_step"])
        before = {name: tensor.clone() for name, tensor in checkpoint["state_dict"].items()}
        time.sleep(0.2)
        assert len(written) == checkpoint["global_step"]
        for name, tensor in checkpoint["state_dict"].items():
            assert torch.equal(tensor, before[name]), "the next checkpoint was copied into its place"
        save(checkpoint, file)

    monkeypatch.setattr(torch, "save", slow)
    toy.train(tmp_path, save_every=1)
    assert written == [1, 2, 3, 4, 5, 6]
    assert find_resume(tmp_path / "checkpoints") == (tmp_path / "checkpoints" / LAST, 6)


def test_a_checkpoint_that_is_not_what_was_written_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = AtomicCheckpointIO.save_checkpoint

    def damaging(self: Any, checkpoint: dict[str, Any], path: Any, *rest: Any) -> None:
        save(self, checkpoint, path)
        if checkpoint["global_step"] == 6:
            flip_bit(path)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", damaging)
    with pytest.raises(CheckpointError, match="its bytes are not those that were written"):
        toy.train(tmp_path)
    folder = tmp_path / "checkpoints"
    assert [path.name for path in folder.iterdir()] == [LAST]
    assert find_resume(folder) == (folder / LAST, 3)


def test_no_checkpoint_of_a_step_whose_weights_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = export.save_weights

    def failing(path: Path, *args: Any, **settings: Any) -> None:
        if settings["step"] == 6:
            time.sleep(0.2)  # the checkpoint of its step waits behind it
            raise ValueError("12 tensors are not finite")
        save(path, *args, **settings)

    monkeypatch.setattr(export, "save_weights", failing)
    with pytest.raises(ValueError, match="12 tensors are not finite"):
        toy.train(tmp_path)
    assert find_resume(tmp_path / "checkpoints") == (tmp_path / "checkpoints" / LAST, 3)


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    leftover = tmp_path / "checkpoints/.last.ckpt.999.tmp"
    leftover.parent.mkdir()
    leftover.touch()
    toy.train(tmp_path, trainer={"max_steps": 1})
    assert not leftover.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x80\x02}q\x00."])
def test_an_unreadable_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LAST).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read.*away to start the run anew"):
        find_resume(tmp_path)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / LAST).mkdir()
    with pytest.raises(CheckpointError, match=r"last\.ckpt is a folder without a checkpoint"):
        find_resume(tmp_path)


def test_weights_alone_are_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / LAST)
    with pytest.raises(CheckpointError, match=r"last\.ckpt is no checkpoint of a run"):
        find_resume(tmp_path)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    toy.train(tmp_path)  # 6 steps, saved every 3
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [LAST, PREVIOUS]
    assert (saved_step(folder / PREVIOUS), saved_step(folder / LAST)) == (3, 6)
    assert find_resume(folder) == (folder / LAST, 6)
    assert find_resume(tmp_path) is None


def flip_bit(path: Path) -> None:
    """In the middle, where the tensors are: the archive stays readable."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [flip_bit, cut_short, replace_by_folder])
def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_the_same(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    whole = toy.train(tmp_path / "whole", trainer={"max_steps": 8})
    toy.train(tmp_path / "damaged")
    damage(tmp_path / "damaged/checkpoints" / LAST)
    again = toy.train(tmp_path / "damaged", trainer={"max_steps": 8})

    (line,) = [record.getMessage() for record in caplog.records if "one before" in record.getMessage()]
    assert "last.ckpt" in line
    assert "going on from the one before, of step 3" in line
    for name, tensor in whole.trained_state().items():
        assert torch.equal(tensor, again.trained_state()[name]), name


def test_two_damaged_ones_are_an_error(tmp_path: Path) -> None:
    toy.train(tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        flip_bit(path)
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged.*previous\.ckpt is damaged"):
        find_resume(tmp_path / "checkpoints")


def written_by_deepspeed(folder: Path) -> Path:
    """As it writes them: a folder with the module's states, the optimizer's, and the name of the newest."""
    written = folder / "written"
    (written / "checkpoint").mkdir(parents=True)
    torch.save(
        {"global_step": 5, "module": torch.ones(4000)}, written / "checkpoint/mp_rank_00_model_states.pt"
    )
    torch.save({"moments": torch.ones(4000)}, written / "checkpoint/optim_states.pt")
    (written / "latest").write_text("checkpoint")
    return written


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda path: flip_bit(path / "checkpoint/optim_states.pt"),
            "the bytes of checkpoint/optim_states.pt are not those that were written",
        ),
        (lambda path: (path / "latest").unlink(), "its file latest is missing"),
        (lambda path: (path / "more.pt").touch(), "its file more.pt is not one of those"),
        (lambda path: flip_bit(path / "sha256.txt"), "damaged"),
    ],
)
def test_a_folder_has_a_digest_of_each_file(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    keep(written_by_deepspeed(tmp_path), tmp_path / LAST, step=5)
    assert find_resume(tmp_path) == (tmp_path / LAST, 5)
    subprocess.run(["sha256sum", "--check", "--quiet", "sha256.txt"], cwd=tmp_path / LAST, check=True)
    damage(tmp_path / LAST)
    with pytest.raises(CheckpointError, match=said):
        find_resume(tmp_path)


def test_a_folder_of_another_step_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds step 5 in the place of 6"):
        keep(written_by_deepspeed(tmp_path), tmp_path / LAST, step=6)
    assert list(tmp_path.iterdir()) == []


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "object": Path("x")}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)


def test_a_folder_that_cannot_be_written_is_found_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    with pytest.raises(ValueError, match=r"cannot write to .*checkpoints"):
        toy.train(tmp_path)


def test_every_steps_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"callbacks\.last_checkpoint\.every_steps is 0"):
        LastCheckpoint(tmp_path, every_steps=0)
