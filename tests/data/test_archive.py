import io
import os
import tarfile
from pathlib import Path

import pytest

from portraitgen.data.archive import Archive
from portraitgen.data.sample import DataError

STATUS = Path("/proc/self/status")


def mapped_mb() -> float:
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("RssFile")]
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells how much of a file is in memory")
def test_what_was_read_does_not_stay_in_memory(tmp_path: Path) -> None:
    data = bytes(range(256)) * (4 << 12) * 4  # 16 MB
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo("a")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    archive = Archive(tmp_path / "a.tar")
    (member,) = archive.members()
    before = mapped_mb()
    assert archive.read(member) == data
    assert mapped_mb() > before + 12
    archive.forget()
    assert mapped_mb() < before + 2
    assert archive.read(member) == data


def test_a_shard_that_is_cut_short_while_it_is_open_is_named(tmp_path: Path) -> None:
    """Reading a mapped page behind the file's end would end the process by SIGBUS."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo("a")
        entry.size = 1 << 16
        tar.addfile(entry, io.BytesIO(bytes(1 << 16)))
    archive = Archive(path)
    (member,) = archive.members()
    os.truncate(path, 1024)
    with pytest.raises(DataError, match=r"a\.tar was cut short while it was read: 1024 bytes of"):
        bytes(archive.read(member))
