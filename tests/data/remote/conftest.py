"""Seven clips in three shards, on a disk and at servers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from portraitgen.data.prepare.masks import HullMasks
from portraitgen.data.shards import ShardWriter
from tests.data.remote.proxy import Proxy
from tests.data.remote.servers import PlainHandler, s3_server, sign_in, web_server
from tests.synthetic import synthetic_clip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the data set."""
    folder = tmp_path_factory.mktemp("clips")
    with ShardWriter(folder, max_samples=3) as writer:
        for seed in range(7):
            clip = synthetic_clip(f"person{seed}", num_frames=120, size=64, seed=seed, sound=True)
            writer.write(HullMasks()(replace(clip, caption=f"number {seed}")))
    return folder


@pytest.fixture(scope="module")
def s3_port(root: Path) -> Iterator[int]:
    with s3_server(root) as port:
        yield port


@pytest.fixture
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The S3 server, behind a proxy; with credentials for it."""
    sign_in(monkeypatch)
    with Proxy(s3_port) as proxy:
        yield proxy


@pytest.fixture
def web(root: Path) -> Iterator[Proxy]:
    """A web server with byte ranges, behind a proxy."""
    with web_server(root) as port, Proxy(port) as proxy:
        yield proxy


@pytest.fixture
def plain(root: Path) -> Iterator[Proxy]:
    """A web server without byte ranges, behind a proxy."""
    with web_server(root, PlainHandler) as port, Proxy(port) as proxy:
        yield proxy
