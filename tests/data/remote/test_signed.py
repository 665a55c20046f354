"""Addresses that somebody signed: for one object, or with a key to a whole folder."""

import hashlib
import logging
from typing import BinaryIO
from urllib.parse import parse_qs, urlsplit

import pytest

from portraitgen.data.catalog import Catalog
from portraitgen.data.manifest import read_manifest
from portraitgen.data.remote.address import Address
from portraitgen.data.remote.store import Refused
from tests.data.batches import assert_same, take
from tests.data.remote.proxy import Proxy
from tests.data.remote.reading import loader, settings
from tests.data.remote.servers import RangeHandler, web_server

NAMES = [f"/shards/train-{number:06d}.tar" for number in range(3)]
KEY = "?key=abc%2Bdef%3D&v=1"


def signed(path: str, date: str) -> str:
    """A query for this object alone, another one whenever it is made."""
    return f"X-Amz-Date={date}&X-Amz-Signature={hashlib.sha256(f'{path} {date}'.encode()).hexdigest()}"


class SigningHandler(RangeHandler):
    """Gives what is signed, or asked for with the key, until the signatures end."""

    ended = False

    def send_head(self) -> BinaryIO | None:
        parts = urlsplit(self.path)
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with_key = given == {"key": "abc+def=", "v": "1"}
        if not with_key and (self.ended or parts.query != signed(parts.path, given.get("X-Amz-Date", ""))):
            self.send_error(403)
            return None
        return super().send_head()


@pytest.fixture
def signing(root, monkeypatch):
    """A server that wants signatures, behind a proxy."""
    monkeypatch.setattr(SigningHandler, "ended", False)
    with web_server(root, SigningHandler) as port, Proxy(port) as proxy:
        yield proxy


def test_of_signed_shards_indexes_are_made_once_however_often_they_are_signed(
    signing, root, tmp_path, caplog, monkeypatch
):
    """The index, which such a signature is not for, was refused, and ended the run."""
    remote = settings(tmp_path, retries=0)
    addresses = [f"{signing.url}{name}?{signed(name, '1')}" for name in NAMES]
    with caplog.at_level(logging.WARNING):
        there = take(loader(addresses, num_workers=1, remote=remote), 5)
    assert_same(there, take(loader(f"{root}/shards/train-*.tar"), 5))
    said = "train-000000.tar has an index that the signature in its address is not for: all of it was read"
    assert said in caplog.text
    assert "X-Amz" not in caplog.text
    signing.forget()
    anew = [f"{signing.url}{name}?{signed(name, '2')}" for name in NAMES]
    assert_same(take(loader(anew, remote=remote), 5), there)
    assert sum(sent for path, sent in signing.sent.items() if ".tar" in path) == len(NAMES), "a byte of each"
    assert read_manifest(Address(anew[0], remote)) is None
    monkeypatch.setattr(SigningHandler, "ended", True)
    with pytest.raises(Refused, match=r"train-000000\.tar may not be read .*403.*: .*sign it anew"):
        Catalog(anew, remote)


def test_a_key_to_a_folder_goes_for_what_lies_beside_the_shard(signing, root, tmp_path, caplog):
    remote = settings(tmp_path, retries=0)
    addresses = [f"{signing.url}{name}{KEY}" for name in NAMES]
    there = take(loader(addresses, num_workers=1, remote=remote), 5)
    assert_same(there, take(loader(f"{root}/shards/train-*.tar"), 5))
    assert not caplog.records
    assert read_manifest(Address(addresses[1], remote)) == read_manifest(root / NAMES[1].lstrip("/"))


def test_only_signatures_are_left_out_of_what_the_cache_knows_an_object_by(tmp_path):
    remote = settings(tmp_path)
    for query, left in (
        ("?X-Amz-Date=1&X-Amz-Signature=a", ""),
        ("?versionId=7&X-Amz-Signature=a&part=2", "?versionId=7&part=2"),
        ("?X-Goog-Signature=a&id=3", "?id=3"),
        ("?id=3", "?id=3"),
        ("", ""),
    ):
        assert Address(f"https://host/a.tar{query}", remote).unsigned == f"https://host/a.tar{left}"
