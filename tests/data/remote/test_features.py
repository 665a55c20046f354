"""Features that lie beside shards at an address, and what generation reads there."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from portraitgen.data.catalog import Catalog
from portraitgen.data.features.reader import FeatureReader
from portraitgen.data.sample import DataError
from portraitgen.runs.generate.stored_clips import ShardClips
from tests.data.batches import assert_same, take
from tests.data.features.test_features import Numbered, PerPerson, Said, compute
from tests.data.remote.reading import loader, settings
from tests.data.remote.servers import BUCKET, PlainHandler, RangeHandler, s3_server, sign_in, web_server


@pytest.fixture(scope="module")
def featured(root, tmp_path_factory) -> Path:
    """The data set with features."""
    folder = Path(shutil.copytree(root, tmp_path_factory.mktemp("featured") / "clips"))
    for feature in (Numbered(), PerPerson(), Said()):
        compute(folder, feature)
    return folder


NAMES = ["numbered", "person", "said"]


def test_features_come_from_a_store_as_from_a_disk(featured, tmp_path, monkeypatch):
    sign_in(monkeypatch)
    here = take(loader(f"{featured}/shards/train-*.tar", features=NAMES), 4)
    with s3_server(featured) as port:
        remote = settings(tmp_path, {"endpoint_url": f"http://127.0.0.1:{port}"})
        shards = f"s3://{BUCKET}/data/shards/train-*.tar"
        assert_same(take(loader(shards, features=NAMES, num_workers=2, remote=remote), 4), here)
        with pytest.raises(DataError, match=r"s3://faces/data has no vae .*there: numbered@"):
            FeatureReader(Catalog(shards, remote), "vae")


@pytest.mark.parametrize("handler", [RangeHandler, PlainHandler])
def test_a_server_is_asked_for_a_feature_by_its_full_name(featured, tmp_path, handler):
    (folder,) = (featured / "aux").glob("numbered@*")
    here = take(loader(f"{featured}/shards/train-*.tar", features=[folder.name]), 3)
    with web_server(featured, handler) as port:
        shards = f"http://127.0.0.1:{port}/shards/train-{{000000..000002}}.tar"
        remote = settings(tmp_path)
        assert_same(take(loader(shards, features=[folder.name], remote=remote), 3), here)


def test_generation_reads_clips_by_address(root, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    here = ShardClips(f"{root}/shards/train-*.tar")
    with web_server(root) as port:
        there = ShardClips(f"http://127.0.0.1:{port}/shards/train-{{000000..000002}}.tar")
        assert there.keys == here.keys
        key = there.keys[4]
        np.testing.assert_array_equal(there.valid_frames(key, (0, 1)), here.valid_frames(key, (0, 1)))
        assert there.caption(key) == here.caption(key)
        assert there.shard(key) == f"http://127.0.0.1:{port}/shards/train-000001.tar"
