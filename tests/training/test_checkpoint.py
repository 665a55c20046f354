"""The file that a run resumes from."""

from pathlib import Path
from typing import Any

import pytest
import torch

from portraitgen.training.checkpoint import AtomicCheckpointIO, LastCheckpoint
from tests.training import toy


def test_a_write_that_fails_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def disk_full(checkpoint: dict[str, Any], path: Path) -> None:
        if checkpoint["global_step"] == 6:
            path.write_bytes(b"half")
            raise OSError("no space left")
        save(checkpoint, path)

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
    path = tmp_path / "checkpoints/last.ckpt"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read .*move it away to start the run anew"):
        toy.train(tmp_path)


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
