"""The file that a run resumes from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from portraitgen.training.checkpoint import (
    LAST,
    PREVIOUS,
    AtomicCheckpointIO,
    CheckpointError,
    LastCheckpoint,
    _keep,
    find_resume,
    saved_step,
)
from tests.training import toy


def test_a_write_that_fails_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def disk_full(checkpoint: dict[str, Any], file: Any) -> None:
        if checkpoint["global_step"] == 6:
            file.write(b"half")
            raise OSError("no space left")
        save(checkpoint, file)

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="no space left"):
        toy.train(tmp_path)
    folder = tmp_path / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 3


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


def test_a_folder_of_a_sharded_strategy_has_a_digest_too(tmp_path: Path) -> None:
    """As DeepSpeed writes them: a folder with the module's states."""
    written = tmp_path / "written"
    (written / "checkpoint").mkdir(parents=True)
    state = written / "checkpoint/mp_rank_00_model_states.pt"
    torch.save({"global_step": 5, "module": torch.ones(4000)}, state)
    _keep(written, tmp_path / LAST)
    assert find_resume(tmp_path) == (tmp_path / LAST, 5)
    flip_bit(tmp_path / LAST / "checkpoint/mp_rank_00_model_states.pt")
    with pytest.raises(CheckpointError, match="its files are not those that were written"):
        find_resume(tmp_path)


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
