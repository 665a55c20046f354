"""Shards at addresses give the samples that the same shards give on a disk, whatever the network does."""

import logging
import multiprocessing
import os
import shutil
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from portraitgen.data.archive import Archive
from portraitgen.data.catalog import Catalog
from portraitgen.data.index import ShardIndex
from portraitgen.data.manifest import read_manifest
from portraitgen.data.motion import MotionFrames
from portraitgen.data.remote.address import Address
from portraitgen.data.remote.settings import RemoteShards
from portraitgen.data.remote.store import StoreError
from portraitgen.data.sample import DataError
from portraitgen.data.shards import ShardWriter
from tests.data.batches import assert_same, take
from tests.data.modules import clip_module, photo_module
from tests.data.photos import Person, photo
from tests.data.remote.proxy import Proxy
from tests.data.remote.reading import PLAIN, loader, settings, shards_at
from tests.data.remote.servers import (
    BUCKET,
    CREDENTIALS,
    PlainHandler,
    s3_client,
    s3_server,
    sign_in,
    web_server,
)

FULL = {
    "clip_frames": 4,
    "reference": "neutral",
    "boxes": True,
    "pose_size": 64,
    "masks": "face",
    "captions": True,
    "audio": True,
    "size": [48, 64],
    "motion": MotionFrames(per_segment=2, segments=3, pick="random"),
}


@pytest.fixture(params=["s3", "web", "plain"])
def remote(request):
    """Where the shards lie: name of the place, proxy in front of it."""
    return request.param, request.getfixturevalue(request.param)


@pytest.mark.parametrize(("num_workers", "examples"), [(0, FULL), (2, PLAIN)], ids=["full", "workers"])
def test_samples_and_order_are_those_of_a_disk(root, remote, tmp_path, num_workers, examples):
    shards, options = shards_at(*remote)
    here = take(loader(f"{root}/shards/train-*.tar", **examples), 7)
    there = loader(shards, num_workers=num_workers, remote=settings(tmp_path, options), **examples)
    assert_same(take(there, 7), here)


@pytest.mark.parametrize("stop", [3, 4])
def test_a_run_goes_on_where_it_stood_also_from_a_disk_to_a_store(root, remote, tmp_path, stop):
    shards, options = shards_at(*remote)
    whole = take(loader(f"{root}/shards/train-*.tar"), 8)
    first = loader(shards, num_workers=2, remote=settings(tmp_path, options))
    before = take(first, stop)
    resumed = loader(shards, remote=settings(tmp_path / "another node", options))
    resumed.load_state_dict(first.state_dict())
    assert_same(before + take(resumed, 8 - stop), whole)
    modules = [
        clip_module(f"{root}/shards/train-*.tar", batch_size=2, **PLAIN),
        clip_module(shards, batch_size=2, remote=settings(tmp_path, options), **PLAIN),
    ]
    for module in modules:
        module.setup("fit")
    modules[1].load_state_dict(modules[0].state_dict())  # refuses other samples


def test_photos_and_the_people_in_them_come_as_from_a_disk(tmp_path):
    with ShardWriter(tmp_path / "photos", max_samples=2) as writer:
        for number in range(5):
            people = [Person(0, 8, 64, seed=number, name="AB"[number % 2])]
            writer.write(photo(f"person{number}", (96, 128), people, seed=number, caption=f"number {number}"))
    given = {"batch_size": 2, "samples_per_epoch": 4, "size": 64, "people": 2, "faces": 112, "captions": True}
    given |= {"other": 0.5, "landmarks": True, "identities": True, "flip": 0.5}
    here = photo_module(f"{tmp_path}/photos/shards/train-*.tar", **given).train_stream()
    with web_server(tmp_path / "photos") as port:
        shards = f"http://127.0.0.1:{port}/shards/train-*.tar"  # this server lists what it has
        remote = settings(tmp_path)
        there = photo_module(shards, num_workers=1, remote=remote, **given).train_stream()
        assert_same(take(there, 4), take(here, 4))


def test_two_ranks_share_what_was_fetched(root, s3, tmp_path):
    shards, options = shards_at("s3", s3)
    remote = settings(tmp_path, options, ahead=0)  # else how far they fetched is a matter of time
    seen = []
    for _ in range(2):
        s3.forget()
        ranks = [loader(shards, rank=rank, world_size=2, remote=remote) for rank in range(2)]
        seen.append([take(stream, 4) for stream in ranks])
    assert not [path for method, path, _ in s3.asked if method == "GET" and path.endswith((".tar", ".npz"))]
    whole = take(loader(f"{root}/shards/train-*.tar", batch_size=4), 4)
    for first, second in seen:
        assert [a["key"] + b["key"] for a, b in zip(first, second, strict=True)] == [w["key"] for w in whole]


def test_servers_with_buckets_of_one_name_share_no_cache(s3_port, s3, tmp_path):
    """An object of the same ETag, time and size counted as the same one, whichever server it lay on."""
    with Proxy(s3_port) as other:
        for proxy in (s3, other):
            shards, options = shards_at("s3", proxy)
            Archive(Catalog(shards, settings(tmp_path, options)).shards[0]).file.read(0, 100)
            assert [path for _, path, span in proxy.asked if span and path.endswith("train-000000.tar")]


def test_only_what_a_window_needs_is_fetched(tmp_path, s3):
    """Of large clips: the blocks of its GOPs and landmarks, in few requests."""
    shards, options = shards_at("s3", s3)
    catalog = Catalog(shards, settings(tmp_path, options))
    s3.forget()
    archive = Archive(catalog.shards[0])
    index = catalog.indexes[0]
    packets = index.packets(1)
    assert packets is not None
    begin = index.members(1)["mp4"].offset
    last = int(packets.offsets[20] + packets.sizes[20])
    archive.file.fetch([(begin, begin + 100), (begin + 50, begin + last), (begin, begin + 1)])
    (request,) = [(path, span) for method, path, span in s3.asked if method == "GET"]
    first = begin // 16384 * 16384
    end = min(-(-(begin + last) // 16384) * 16384, archive.size)
    assert request == (f"/{BUCKET}/data/shards/train-000000.tar", f"bytes={first}-{end - 1}")
    s3.forget()
    archive.file.read(begin, last)
    assert s3.asked == []


def test_the_next_samples_are_fetched_while_one_is_read(s3, tmp_path):
    """Without that, each would wait for the answers to its own requests."""
    shards, options = shards_at("s3", s3)
    fetched = {}
    for ahead in (0, 6):
        stream = loader(shards, batch_size=1, remote=settings(tmp_path / str(ahead), options, ahead=ahead))
        s3.forget()
        s3.latency = 0.3
        next(iter(stream))
        s3.latency = 0.0
        fetched[ahead] = len([span for method, _, span in s3.asked if span])
    assert fetched[6] > 2 * fetched[0], "requests that were under way when the first sample was there"


@pytest.mark.parametrize(
    ("kind", "fate"),
    [
        ("s3", "error"),
        ("s3", "slow down"),
        ("s3", "cut"),
        ("web", "cut"),
        ("plain", "cut"),
        ("plain", "error"),
    ],
)
def test_failures_that_pass_are_waited_for(root, kind, request, tmp_path, fate):
    """Every third request fails, one way or another."""
    proxy: Proxy = request.getfixturevalue(kind)
    shards, options = shards_at(kind, proxy)
    proxy.plan = lambda number, path: fate if number % 3 == 1 else None
    there = take(loader(shards, num_workers=2, remote=settings(tmp_path, options)), 4)
    assert_same(there, take(loader(f"{root}/shards/train-*.tar"), 4))


def test_a_server_that_fails_twice_in_a_row_does_not_lack_the_shard(root, plain, tmp_path):
    """fsspec asks for a file's size in two ways, and says that there is none where both fail."""
    shards, options = shards_at("plain", plain)
    stream = loader(shards, remote=settings(tmp_path, options))
    asked = Counter()

    def plan(number, path):
        asked[path] += 1
        return "error" if asked[path] <= 2 else None

    plain.plan = plan
    assert_same(take(stream, 4), take(loader(f"{root}/shards/train-*.tar"), 4))
    assert len(asked) == 3


@pytest.mark.parametrize("kind", ["s3", "web"])
def test_a_store_that_is_gone_ends_the_run_with_its_name(kind, request, tmp_path):
    """Another sample in the place of one that cannot be fetched would be another training."""
    proxy: Proxy = request.getfixturevalue(kind)
    shards, options = shards_at(kind, proxy)
    stream = loader(shards, num_workers=2, remote=settings(tmp_path, options, retries=1))
    proxy.plan = lambda number, path: "error"
    with pytest.raises(DataError, match=r"train-00000\d\.tar could not be read in 2 attempts.*data\.remote"):
        take(stream, 4)


def test_a_missing_shard_is_named(s3, web, tmp_path):
    s3_options = {"endpoint_url": s3.url}
    with pytest.raises(DataError, match=rf"there is no s3://{BUCKET}/data/shards/train-000009\.tar"):
        Catalog(f"s3://{BUCKET}/data/shards/train-000009.tar", settings(tmp_path, s3_options))
    with pytest.raises(DataError, match=rf"no shard in s3://{BUCKET}/data/shards matches 'val-\*\.tar'"):
        Catalog(f"s3://{BUCKET}/data/shards/val-*.tar", settings(tmp_path, s3_options))
    with pytest.raises(DataError, match=r"there is no http://.*/shards/train-000009\.tar"):
        Catalog(f"{web.url}/shards/train-{{000001,000009}}.tar", settings(tmp_path))


def test_missing_credentials_are_named(s3, tmp_path, monkeypatch):
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match=rf"s3://{BUCKET}/data/shards may not be read.*AWS_PROFILE.*anon"):
        Catalog(f"s3://{BUCKET}/data/shards/*.tar", settings(tmp_path, {"endpoint_url": s3.url}))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    for name in ("gcsfs", "s3fs"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(DataError, match=r"gs:// needs the package gcsfs: pip install 'portraitgen\[gs\]'"):
        Catalog("gs://bucket/shards/*.tar", settings(tmp_path))
    with pytest.raises(DataError, match=r"s3:// needs the package s3fs: pip install 'portraitgen\[s3\]'"):
        Catalog("s3://bucket/shards/*.tar", settings(tmp_path))
    with pytest.raises(DataError, match=r"htp:// is no kind of store that is read \(s3://, gs://, http"):
        Catalog("htp://host/a.tar", settings(tmp_path))
    with pytest.raises(DataError, match=r"data\.remote\.retries=-1: give a number from 0 to 100"):
        RemoteShards(retries=-1)


def test_secrets_are_not_said(web, tmp_path, caplog):
    """User, password and signature of an address stay out of logs and errors."""
    address = (
        web.url.replace("http://", "http://me:hun@ter2@") + "/shards/train-000009.tar?X-Amz-Signature=abc123"
    )
    web.plan = lambda number, path: "error" if number else None
    with caplog.at_level(logging.DEBUG, logger="portraitgen"), pytest.raises(DataError) as error:
        Catalog(address, settings(tmp_path, retries=1))
    said = f"{error.value} {caplog.text} {Address(address, settings(tmp_path))!r}"
    assert "train-000009.tar" in said
    assert "ter2" not in said
    assert "abc123" not in said


def test_a_shard_without_an_index_is_read_whole_once(root, tmp_path, caplog):
    (bare := tmp_path / "bare" / "shards").mkdir(parents=True)
    data = (root / "shards" / "train-000000.tar").read_bytes()
    (bare / "train-000000.tar").write_bytes(data)
    with web_server(tmp_path / "bare") as port, Proxy(port) as proxy:
        address = f"{proxy.url}/shards/train-000000.tar"
        with caplog.at_level(logging.WARNING):
            (index,) = Catalog(address, settings(tmp_path)).indexes
        assert "has no index: all of it was read to make one, 3 samples can be used" in caplog.text
        proxy.forget()
        Catalog(address, settings(tmp_path))
        assert proxy.total < 2000
    stored = ShardIndex.load(root / "index" / "train-000000.idx.npz")
    np.testing.assert_array_equal(index.packet_offsets, stored.packet_offsets)
    np.testing.assert_array_equal(index.keys, stored.keys)


def test_an_index_of_another_shard_is_not_used(root, tmp_path, caplog):
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    shutil.copy(copy / "index/train-000002.idx.npz", copy / "index/train-000000.idx.npz")
    (copy / "index/train-000001.idx.npz").write_bytes(b"damaged")
    with web_server(copy) as port, caplog.at_level(logging.WARNING):
        catalog = Catalog(f"http://127.0.0.1:{port}/shards/train-{{000000,000001}}.tar", settings(tmp_path))
    assert [len(index) for index in catalog.indexes] == [3, 3]
    assert "its index was made of" in caplog.text
    assert "is not an index" in caplog.text


def test_a_shard_that_was_replaced_is_fetched_anew(root, tmp_path):
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    with web_server(copy) as port:
        address = f"http://127.0.0.1:{port}/shards/train-000000.tar"
        first = Catalog(address, settings(tmp_path)).indexes[0].keys.tolist()
        for folder, end in (("shards", "tar"), ("index", "idx.npz"), ("manifests", "json")):
            shutil.copy(copy / folder / f"train-000001.{end}", copy / folder / f"train-000000.{end}")
            os.utime(copy / folder / f"train-000000.{end}", (1, 1))
        second = Catalog(address, settings(tmp_path)).indexes[0].keys.tolist()
    assert len(first) == len(second) == 3
    assert first != second


def _replace(kind: str, copy: Path, port: int, content: bytes) -> None:
    """Put another object in the place of the first shard, under the same address."""
    if kind == "s3":
        s3_client(port).put_object(Bucket=BUCKET, Key="data/shards/train-000000.tar", Body=content)
        return
    path = copy / "shards" / "train-000000.tar"
    path.write_bytes(content)
    os.utime(path, (1, 1))


@pytest.mark.parametrize("length", [1.0, 0.01])
@pytest.mark.parametrize("kind", ["s3", "web", "plain"])
def test_a_shard_that_is_replaced_while_it_is_read_ends_the_run(
    root, kind, length, tmp_path, monkeypatch, caplog
):
    """Bytes of both were mixed, and counted as one object's in the cache."""
    sign_in(monkeypatch)
    caplog.set_level(logging.INFO)
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    servers = {"s3": s3_server, "web": web_server, "plain": partial(web_server, handler=PlainHandler)}
    with servers[kind](copy) as port, Proxy(port) as proxy:
        shards, options = shards_at(kind, proxy)
        archive = Archive(Catalog(shards, settings(tmp_path, options)).shards[0])
        whole = (copy / "shards" / "train-000000.tar").read_bytes()
        _replace(kind, copy, port, bytes(int(length * len(whole))))
        with pytest.raises(StoreError, match=r"shards/train-000000\.tar is another object .* replaced"):
            archive.file.read(len(whole) - 100, 50)
        assert "asked again" not in caplog.text


def test_files_by_address_are_files(root):
    here = Catalog(f"{root}/shards/train-*.tar")
    assert Catalog(f"file://{root}/shards/train-*.tar").shards == here.shards


def test_a_manifest_that_cannot_be_asked_for_is_not_taken_for_none(web, root, tmp_path):
    shards, options = shards_at("web", web)
    (shard, *_) = Catalog(shards, settings(tmp_path, options, retries=1)).shards
    web.plan = lambda number, path: "error"
    with pytest.raises(DataError, match=r"train-000000\.json could not be read in 2 attempts"):
        read_manifest(shard)


def test_manifests_are_read_by_address(web, root, tmp_path):
    shards, options = shards_at("web", web)
    there = Catalog(shards, settings(tmp_path, options)).shards
    here = Catalog(f"{root}/shards/train-*.tar").shards
    assert [read_manifest(shard) for shard in there] == [read_manifest(shard) for shard in here]


def test_workers_end_at_once_when_they_are_told_to(s3, tmp_path):
    """A thread that waits for an answer must not hold up the end of its process."""
    shards, options = shards_at("s3", s3)
    stream = loader(shards, num_workers=2, remote=settings(tmp_path, options, ahead=16))
    s3.latency = 0.1
    next(iter(stream))
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    s3.latency = 30.0
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 20
    assert not any(worker.is_alive() for worker in workers)
