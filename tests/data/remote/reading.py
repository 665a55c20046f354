"""Loaders of the clips of conftest, wherever they lie."""

from pathlib import Path

from portraitgen.data.loader import ResumableLoader
from portraitgen.data.remote.settings import RemoteShards
from tests.data.modules import clip_module
from tests.data.remote.proxy import Proxy
from tests.data.remote.servers import BUCKET

PLAIN = {"clip_frames": 4, "snap_keyframes": False}


def shards_at(kind: str, proxy: Proxy) -> tuple[str, dict]:
    """Pattern and options of the fixture's data set."""
    if kind == "s3":
        return f"s3://{BUCKET}/data/shards/train-*.tar", {"endpoint_url": proxy.url}
    return f"{proxy.url}/shards/train-{{000000..000002}}.tar", {}


def settings(tmp_path: Path, options: dict | None = None, **given) -> RemoteShards:
    return RemoteShards(cache=str(tmp_path / "cache"), retry_delay=0.01, options=options, **given)


def loader(shards: str, *, rank: int = 0, world_size: int = 1, **given) -> ResumableLoader:
    module = clip_module(shards, **{"batch_size": 2, "seed": 5, "samples_per_epoch": 8, **PLAIN, **given})
    return module.train_stream(rank=rank, world_size=world_size)
