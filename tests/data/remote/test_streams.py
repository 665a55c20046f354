"""Shards that can only be read whole: commands, servers without byte ranges."""

import logging
import shlex
from multiprocessing import get_context
from pathlib import Path

import pytest

from portraitgen.data.catalog import Catalog
from portraitgen.data.remote.address import Address
from portraitgen.data.sample import DataError
from tests.data.batches import assert_same, take
from tests.data.remote.reading import loader, settings


def printed(root: Path, log: Path) -> str:
    """A command that prints a shard of the data set, and notes that it did."""
    return f"pipe:echo $$ >> {shlex.quote(str(log))}; cat {root}/shards/train-{{000000..000002}}.tar"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_a_command_prints_gives_the_samples_of_a_disk(root, tmp_path, caplog, num_workers):
    log = tmp_path / "log"
    with caplog.at_level(logging.INFO):
        stream = loader(printed(root, log), num_workers=num_workers, remote=settings(tmp_path))
    assert_same(take(stream, 7), take(loader(f"{root}/shards/train-*.tar"), 7))
    assert len(log.read_text().split()) == 3, "each once"
    (line,) = [
        record.message for record in caplog.records if "cannot be read by byte ranges" in record.message
    ]
    assert line.startswith("3 shard(s) cannot be read by byte ranges, pipe:echo … train-000000.tar being")
    assert "streamed whole" in line


def test_a_resume_on_another_node_streams_anew_and_gives_the_same(root, tmp_path):
    whole = take(loader(f"{root}/shards/train-*.tar"), 8)
    first = loader(printed(root, tmp_path / "a"), remote=settings(tmp_path))
    before = take(first, 3)
    resumed = loader(printed(root, tmp_path / "b"), remote=settings(tmp_path / "other"))
    resumed.load_state_dict(first.state_dict())
    assert_same(before + take(resumed, 5), whole)


def test_what_was_evicted_is_streamed_again(root, tmp_path):
    """A cache that holds one shard of three."""
    size = (root / "shards" / "train-000000.tar").stat().st_size
    log = tmp_path / "log"
    small = settings(tmp_path, cache_gb=1.5 * size / 1e9)
    there = take(loader(printed(root, log), remote=small), 7)
    assert_same(there, take(loader(f"{root}/shards/train-*.tar"), 7))
    assert len(log.read_text().split()) > 3


def test_a_shard_that_the_cache_cannot_hold_is_refused(root, tmp_path):
    with pytest.raises(DataError, match=r"can only be read whole, .*: raise data\.remote\.cache_gb"):
        Catalog(printed(root, tmp_path / "log"), settings(tmp_path, cache_gb=0.0003))


def _stream(root: Path, tmp_path: Path) -> None:
    Catalog(printed(root, tmp_path / "log"), settings(tmp_path))


def test_processes_wait_for_the_one_that_streams(root, tmp_path):
    workers = [get_context("fork").Process(target=_stream, args=(root, tmp_path)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len((tmp_path / "log").read_text().split()) == 3


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("cat nowhere.tar", r"pipe:cat … nowhere\.tar could not be read in 2 attempts.*exit code 1"),
        ("head -c 5000 {root}/shards/train-000000.tar", "not a whole tar"),
        ("sh -c 'curl -H password=hunter2 nowhere'", "exit code"),
    ],
)
def test_a_command_that_fails_is_named_without_its_words(root, tmp_path, command, said, caplog, capfd):
    with pytest.raises(DataError, match=said) as error:
        Catalog("pipe:" + command.replace("{root}", str(root)), settings(tmp_path, retries=1))
    assert "hunter2" not in f"{error.value} {caplog.text}"


def test_commands_have_names_for_logs(tmp_path):
    remote = settings(tmp_path)
    assert str(Address("pipe:ssh host cat /a/train-000003.tar", remote)) == "pipe:ssh … train-000003.tar"
    assert Address("pipe:ssh host cat /a/train-000003.tar", remote).stem == "train-000003"
    assert Address("pipe:make-one", remote).name.endswith(".tar")
