"""Files are whole or not there."""

import os
import stat
import sys
from pathlib import Path

import pytest

from portraitgen.media.files import replace_file, replacing, writable_folder


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it can only be set")
def test_the_umask_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another thread made at that moment had the rights of the mask that was set to ask."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("it was set"))
    replace_file(tmp_path / "a", b"a")


def test_files_get_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    """Some libraries write theirs for nobody else to read."""
    before = os.umask(0o022)
    try:
        with replacing(tmp_path / "a") as temporary:
            temporary.touch(mode=0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_failing_block_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".last.ckpt.123.tmp", "last.ckpt", ".hidden.tmp", "b.1.tmp"):
        (tmp_path / name).touch()
    assert writable_folder(tmp_path) == tmp_path
    assert sorted(file.name for file in tmp_path.iterdir()) == [".hidden.tmp", "b.1.tmp", "last.ckpt"]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match=r"cannot write to .*file/weights: Not a directory\. Make it writable"
    ):
        writable_folder(tmp_path / "file" / "weights")
