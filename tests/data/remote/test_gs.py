"""Shards at Google's storage: gcsfs against a server of its protocol on this machine, without credentials."""

import json
import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from portraitgen.data.archive import Archive
from portraitgen.data.catalog import Catalog
from portraitgen.data.remote.store import StoreError
from portraitgen.data.sample import DataError
from tests.data.batches import assert_same, take
from tests.data.remote.proxy import Proxy
from tests.data.remote.reading import loader, settings
from tests.data.remote.servers import BUCKET

# By default gcsfs asks Google itself, over gRPC, of what kind a bucket is, whichever server is named.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
pytest.importorskip("gcsfs")
emulator = pytest.importorskip("gcp_storage_emulator.server")


SHARDS = f"gs://{BUCKET}/data/shards/train-*.tar"


def upload(port: int, name: str, content: bytes) -> None:
    url = (
        f"http://127.0.0.1:{port}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quote(name, safe='')}"
    )
    kind = {"Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(url, content, kind, method="POST")).close()


@pytest.fixture
def gs(root: Path) -> Iterator[tuple[int, Proxy]]:
    """The port of the server, with the data set below "data/" in BUCKET, and a proxy in front of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET):
        for path in sorted(root.rglob("*")):
            if path.is_file():
                upload(port, f"data/{path.relative_to(root)}", path.read_bytes())
        with Proxy(port) as proxy:
            yield port, proxy


def options(proxy: Proxy) -> dict:
    return {"endpoint_url": proxy.url, "token": "anon"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_and_order_are_those_of_a_disk(root, gs, tmp_path, num_workers):
    remote = settings(tmp_path, options(gs[1]))
    there = take(loader(SHARDS, num_workers=num_workers, remote=remote), 7)
    assert_same(there, take(loader(f"{root}/shards/train-*.tar"), 7))
    asked = [(path, span) for _, path, span in gs[1].asked if "alt=media" in path]
    assert not [path for path, span in asked if span is None and ".tar" in path], "none is read whole"


def test_failures_that_pass_are_waited_for(root, gs, tmp_path):
    gs[1].plan = lambda number, path: "cut" if number % 3 == 1 else None
    there = take(loader(SHARDS, num_workers=1, remote=settings(tmp_path, options(gs[1]))), 4)
    assert_same(there, take(loader(f"{root}/shards/train-*.tar"), 4))


def test_a_missing_shard_is_named(gs, tmp_path):
    remote = settings(tmp_path, options(gs[1]))
    with pytest.raises(DataError, match=rf"there is no gs://{BUCKET}/data/shards/train-000009\.tar"):
        Catalog(f"gs://{BUCKET}/data/shards/train-000009.tar", remote)
    with pytest.raises(DataError, match=rf"no shard in gs://{BUCKET}/data/shards matches 'val-\*\.tar'"):
        Catalog(f"gs://{BUCKET}/data/shards/val-*.tar", remote)


def test_a_shard_that_is_replaced_while_it_is_read_ends_the_run(root, gs, tmp_path):
    """The server here gives the newest generation whichever is asked for; Google's says that it is gone."""
    port, proxy = gs
    archive = Archive(Catalog(SHARDS, settings(tmp_path, options(proxy))).shards[0])
    archive.file.read(0, 100)
    (asked,) = [path for _, path, span in proxy.asked if span and "train-000000.tar" in path]
    (generation,) = parse_qs(urlsplit(asked).query)["generation"]
    name = "data/shards/train-000000.tar"
    upload(port, name, bytes(archive.size))
    facts = f"http://127.0.0.1:{port}/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}"
    with urllib.request.urlopen(facts) as answer:
        assert json.load(answer)["generation"] != generation
    proxy.plan = lambda number, path: "gone" if f"generation={generation}" in path else None
    with pytest.raises(StoreError, match=r"train-000000\.tar is another object .* replaced"):
        archive.file.read(archive.size - 100, 50)
