"""Tars read in place: just what is asked for, and an error with a name where the file gets shorter."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from portraitgen.data.archive import Archive, Member
from portraitgen.data.sample import DataError

STATUS = Path("/proc/self/status")


def write_tar(path: Path, data: bytes) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo("a")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return path


def mapped_mb() -> float:
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("RssFile")]
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells how much of a file is in memory")
def test_what_was_read_does_not_stay_in_memory(tmp_path: Path) -> None:
    data = bytes(range(256)) * (4 << 12) * 4  # 16 MB
    archive = Archive(write_tar(tmp_path / "a.tar", data))
    (member,) = archive.members()
    before = mapped_mb()
    assert archive.read(member) == data
    assert mapped_mb() < before + 2


def test_a_part_is_a_slice_and_a_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 8
    archive = Archive(write_tar(tmp_path / "a.tar", data))
    (member,) = archive.members()
    part = archive.part(member)
    for cut in (slice(3, 9), slice(None), slice(-5, None), slice(2000, 9999), slice(9, 3)):
        assert part[cut] == data[cut]
    with io.BufferedReader(part) as file:
        file.seek(-10, io.SEEK_END)
        assert file.read(4) + file.read() == data[-10:]


@pytest.mark.parametrize("rows", [[3], [0, 1, 2], [5, 2, 2, 90], [0, 80_000], []])
def test_rows_are_those_of_the_array(tmp_path: Path, rows: list[int]) -> None:
    """Near ones are read together, far ones apart; any order, and some twice."""
    array = np.arange(100_000 * 3, dtype="<i4").reshape(-1, 3)
    archive = Archive(write_tar(tmp_path / "a.tar", array.tobytes()))
    (member,) = archive.members()
    found = archive.rows(member.offset, 12, np.array(rows, np.int64)).view("<i4")
    np.testing.assert_array_equal(found, array[rows])


def test_rows_beyond_the_end_are_an_error(tmp_path: Path) -> None:
    archive = Archive(write_tar(tmp_path / "a.tar", bytes(100)))
    with pytest.raises(DataError, match=r"a\.tar ends before row 9999"):
        archive.rows(512, 12, np.array([1, 9999]))


def test_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    """Sizes and places may be a stranger's."""
    archive = Archive(write_tar(tmp_path / "a.tar", bytes(100)))
    assert len(archive.read(Member("a", 512, 1 << 60))) == archive.size - 512
    assert len(archive.read(Member("a", 1 << 60, 100))) == len(archive.read(Member("a", 512, -5))) == 0
    with pytest.raises(DataError, match="before its beginning"):
        archive.read(Member("a", -1, 100))


def test_a_shard_that_is_cut_short_while_it_is_open_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", bytes(1 << 16))
    archive = Archive(path)
    (member,) = archive.members()
    os.truncate(path, 1024)
    with pytest.raises(DataError, match=r"a\.tar was cut short while it was read: 1024 bytes of"):
        archive.read(member)
    assert archive.read(Member("a", 512, 512)) == bytes(512), "what is still there can be read"


def test_a_shard_may_be_cut_short_at_any_moment_of_a_read(tmp_path: Path) -> None:
    """A process that reads all the time while another one cuts the file: SIGBUS ended it, without a word."""
    path = write_tar(tmp_path / "a.tar", bytes(1 << 20))
    size = path.stat().st_size
    reader = """
import sys
from pathlib import Path
from portraitgen.data.archive import Archive
from portraitgen.data.sample import DataError
archive = Archive(Path(sys.argv[1]))
(member,) = archive.members()
print("reading", flush=True)
named = 0
while named < 200:
    try:
        assert bytes(archive.read(member)).strip(bytes(1)) == b""
    except DataError as error:
        assert "a.tar was cut short while it was read" in str(error)
        named += 1
print("done")
"""
    process = subprocess.Popen([sys.executable, "-c", reader, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    while process.poll() is None:
        os.truncate(path, 4096)
        os.truncate(path, size)
    assert (process.returncode, process.stdout.read()) == (0, "done\n")


def test_what_was_handed_out_outlives_the_file(tmp_path: Path) -> None:
    """Bytes in a batch that is still being made: touching them ended the process by SIGBUS."""
    path = write_tar(tmp_path / "a.tar", b"x" * (1 << 16))
    reader = (
        "import os, sys; from pathlib import Path; from portraitgen.data.archive import Archive\n"
        "archive = Archive(Path(sys.argv[1])); (member,) = archive.members(); data = archive.read(member)\n"
        "os.truncate(sys.argv[1], 512); assert bytes(data) == b'x' * (1 << 16)"
    )
    assert subprocess.run([sys.executable, "-c", reader, path], check=False).returncode == 0
