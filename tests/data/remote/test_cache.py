"""The cache: bounded, shared, and wrong about nothing that lies on its disk."""

import logging
import os
import threading
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from portraitgen.data.remote.address import Address
from portraitgen.data.remote.ahead import Ahead, Upcoming, with_upcoming
from portraitgen.data.remote.blocks import BLOCK, DATA, SUMS
from portraitgen.data.remote.cache import Cache
from portraitgen.data.remote.file import RangedFile
from portraitgen.data.remote.settings import RemoteShards
from portraitgen.data.remote.store import StoreError
from portraitgen.data.sample import DataError

SIZE = 10 * BLOCK + 100


def block(number: int) -> bytes:
    length = min(BLOCK, SIZE - number * BLOCK)
    return np.random.default_rng(number).bytes(length)


def filled(cache: Cache, url: str = "a", numbers: range = range(11)) -> None:
    cache.keep(cache.blocks(url, "1", SIZE), {number: block(number) for number in numbers})


def test_blocks_come_back_as_they_were(tmp_path):
    cache = Cache(tmp_path, 10**9)
    filled(cache, numbers=range(2, 5))
    filled(cache, numbers=range(10, 11))
    blocks = cache.blocks("a", "1", SIZE)
    found = blocks.read(range(11))
    assert {number: bytes(data) for number, data in found.items()} == {n: block(n) for n in (2, 3, 4, 10)}
    assert blocks.missing(range(11)) == [0, 1, 5, 6, 7, 8, 9]
    assert cache.blocks("a", "2", SIZE).read(range(11)) == {}, "another version is another object"


def test_a_damaged_block_is_not_there(tmp_path):
    cache = Cache(tmp_path, 10**9)
    filled(cache)
    (data,) = tmp_path.glob(f"*{DATA}")
    with data.open("r+b") as file:
        file.seek(3 * BLOCK + 7)
        file.write(b"damage")
    assert sorted(cache.blocks("a", "1", SIZE).read(range(11))) == [0, 1, 2, *range(4, 11)]


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    cache = Cache(tmp_path, 10**9)
    for number, url in enumerate("abc"):
        filled(cache, url)
        os.utime(cache.path(url, "1").with_suffix(SUMS), (number, number))
    held = cache.blocks("a", "1", SIZE)
    os.utime(cache.path("a", "1").with_suffix(SUMS), (9, 9))  # "a" was read last
    Cache(tmp_path, int(2.5 * SIZE)).make_room()
    left = [url for url in "abc" if cache.path(url, "1").with_suffix(DATA).exists()]
    assert left == ["a", "c"]
    assert sum(512 * path.stat().st_blocks for path in tmp_path.iterdir()) <= 2.5 * SIZE
    assert len(held.read(range(11))) == 11


def test_whoever_has_an_evicted_object_open_finds_nothing_and_fills_it_anew(tmp_path):
    cache = Cache(tmp_path, 10**9)
    filled(cache)
    held = cache.blocks("a", "1", SIZE)
    Cache(tmp_path, SIZE // 2).make_room()
    assert held.read(range(11)) == {}
    held.write({3: block(3)})
    assert list(cache.blocks("a", "1", SIZE).read(range(11))) == [3]


def _hammer(folder: Path, seed: int) -> None:
    cache, rng = Cache(folder, 4 * SIZE), np.random.default_rng(seed)
    for _ in range(150):
        blocks = cache.blocks(f"object {rng.integers(8)}", "1", SIZE)
        numbers = range(int(rng.integers(6)), int(rng.integers(6, 12)))
        for number, data in blocks.read(numbers).items():
            assert bytes(data) == block(number)
        cache.keep(blocks, {number: block(number) for number in blocks.missing(numbers)})


def test_many_processes_read_write_and_evict_at_once(tmp_path):
    workers = [get_context("fork").Process(target=_hammer, args=(tmp_path, seed)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 6
    Cache(tmp_path, 4 * SIZE).make_room()
    assert sum(512 * path.stat().st_blocks for path in tmp_path.iterdir()) <= 4 * SIZE


def test_a_full_disk_is_said_once_and_is_no_end(tmp_path, caplog, monkeypatch):
    cache = Cache(tmp_path, 10**9)
    blocks = cache.blocks("a", "1", SIZE)

    def full(*given: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            cache.keep(blocks, {number: block(number)})
    assert caplog.text.count("takes nothing more (No space left on device)") == 1


def test_the_folder_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = RemoteShards().cache_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"belongs to somebody else.*data\.remote\.cache"):
        RemoteShards().cache_folder()


@pytest.mark.parametrize("given", [False, True], ids=["default", "given"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch, given):
    """The default one ended in a bare FileExistsError."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    default = tmp_path / f"portraitgen-shards-{os.getuid()}"
    folder = tmp_path / "file/cache" if given else default
    (tmp_path / "file" if given else default).write_text("in the way")
    with pytest.raises(ValueError, match=rf"cannot write to {folder}: .*choose another folder"):
        RemoteShards(cache=str(folder) if given else None).cache_folder()


@pytest.mark.parametrize("readers", [1, 3])
def test_each_reader_is_told_of_its_own_next_batches(readers):
    batches = [[2 * n, 2 * n + 1] for n in range(12)]
    told = list(with_upcoming(batches, readers=readers, samples=3))
    assert [each.now for each in told] == batches
    for number, each in enumerate(told):
        mine = batches[number + readers :: readers][:2]
        assert each.ahead == [position for batch in mine for position in batch]
    assert list(with_upcoming(batches, readers=2, samples=0)) == [Upcoming(batch, []) for batch in batches]


def test_errors_come_where_the_result_is_wanted():
    def fetch(key: int) -> None:
        if key == 2:
            raise DataError("two")

    ahead = Ahead(fetch, threads=3)
    ahead.begin(range(5))
    for key in (0, 1, 3, 4):
        ahead.wait(key)
    with pytest.raises(DataError, match="two"):
        ahead.wait(2)


def test_work_is_done_in_order_by_one_and_at_a_time_by_several():
    done: list[int] = []
    one = Ahead(done.append, threads=1)
    one.begin(range(4))
    one.wait(3)
    assert done == [0, 1, 2, 3]
    together = threading.Barrier(4, timeout=60)  # broken, it raises
    several = Ahead(lambda key: together.wait() and None, threads=4)
    several.begin(range(4))
    for key in range(4):
        several.wait(key)


def test_the_end_waits_for_what_is_run_and_runs_nothing_that_waits():
    """Threads that went on held locks as workers were forked, who waited for them without end."""
    begun, go = threading.Event(), threading.Event()
    done: list[int] = []

    def fetch(key: int) -> None:
        begun.set()
        assert go.wait(60)
        done.append(key)

    before = threading.active_count()
    ahead = Ahead(fetch, threads=1)
    ahead.begin(range(3))
    assert begun.wait(60)
    threading.Timer(0.05, go.set).start()
    ahead.close()
    assert done == [0]
    assert threading.active_count() <= before + 1  # the timer's own


def test_a_disk_that_is_full_as_a_size_is_noted_is_no_end(tmp_path, caplog, monkeypatch):
    """Training ended the sample, and took another one, where only the note could not be kept."""

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    cache = Cache(tmp_path, 10**9)
    monkeypatch.setattr("portraitgen.data.remote.cache.replace_file", full)
    cache.keep_size("a", "1", SIZE)
    assert "takes nothing more (No space left on device)" in caplog.text
    assert cache.size("a", "1") is None


def test_a_cache_that_is_gone_is_no_broken_sample(tmp_path):
    """Samples that fail to be read are replaced by others; this is a failure of all of them."""
    gone = Cache(tmp_path / "gone", 10**9)
    with pytest.raises(StoreError, match=r"cannot be kept in .*gone \(No such file.*data\.remote\.cache"):
        RangedFile(Address("s3://bucket/a.tar", RemoteShards()), gone, version="1", size=SIZE)
