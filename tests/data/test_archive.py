import io
import tarfile
from pathlib import Path

import pytest

from portraitgen.data.archive import Archive

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
