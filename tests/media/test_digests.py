"""A large file is hashed once, until it changes."""

import hashlib
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from portraitgen.media import digests
from portraitgen.media.digests import remembered_digest


@pytest.fixture
def hashed(tmp_path, monkeypatch):
    """Files that were really read, in order."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files, digest = [], digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda path: files.append(path) or digest(path))
    return files


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_a_file_is_read_once_and_again_when_it_changes(tmp_path, hashed):
    file = tmp_path / "base.safetensors"
    file.write_bytes(b"one")
    assert [remembered_digest(file) for _ in range(3)] == [sha256(b"one")] * 3
    assert len(hashed) == 1
    file.write_bytes(b"two")  # same size
    os.utime(file, ns=(0, 5))
    assert remembered_digest(file) == sha256(b"two")
    file.write_bytes(b"three")
    os.utime(file, ns=(0, 5))  # same time
    assert remembered_digest(file) == sha256(b"three")
    assert len(hashed) == 3


def test_a_link_and_its_file_are_one(tmp_path, hashed):
    (tmp_path / "blob").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "blob")
    assert remembered_digest(tmp_path / "link") == remembered_digest(tmp_path / "blob")
    assert len(hashed) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"size": 1}', b"\xff"])
def test_a_damaged_entry_is_written_again(tmp_path, hashed, content):
    file = tmp_path / "file"
    file.write_bytes(b"x")
    remembered_digest(file)
    (entry,) = (tmp_path / "cache/portraitgen/digests").iterdir()
    entry.write_bytes(content)
    assert remembered_digest(file) == remembered_digest(file) == sha256(b"x")
    assert len(hashed) == 2


def test_where_nothing_can_be_written_the_digest_is_still_right(tmp_path, hashed, monkeypatch):
    (tmp_path / "taken").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    (tmp_path / "file").write_bytes(b"x")
    assert remembered_digest(tmp_path / "file") == sha256(b"x")


def test_processes_may_ask_together(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1 << 20))
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        found = list(pool.map(remembered_digest, [file] * 20))
    assert set(found) == {sha256(file.read_bytes())}
    assert len(list((tmp_path / "cache/portraitgen/digests").iterdir())) == 1
