"""From an address to its bytes: which way the store lets them be read."""

import functools
from pathlib import Path

from portraitgen.data.remote.address import Address
from portraitgen.data.remote.cache import Cache
from portraitgen.data.remote.file import RangedFile, RemoteFile
from portraitgen.data.remote.settings import RemoteShards
from portraitgen.data.remote.store import ObjectFacts, store_of
from portraitgen.data.remote.stream import StreamedFile
from portraitgen.data.sample import DataError

_known: dict[Address, ObjectFacts] = {}
"""What stores said when shards were looked for: forked processes, and those who read them, need not ask."""


def found(address: Address, facts: ObjectFacts | None) -> None:
    """Note what a store says now of an object; None: it is to be asked when the object is opened."""
    _known.pop(address, None)
    if facts is not None:
        _known[address] = facts


@functools.lru_cache(maxsize=16)
def cache_of(remote: RemoteShards) -> Cache:
    """The cache that these settings name."""
    return Cache(remote.cache_folder(), remote.cache_bytes)


def open_bytes(address: Address) -> RemoteFile:
    """A shard (or another tar) at an address, as it was when it was found.

    Raises:
        Missing: there is none.
        DataError: it cannot be read, or is larger than the cache and can only be read whole.
    """
    cache = cache_of(address.remote)
    if address.is_pipe:
        file: RemoteFile = StreamedFile(address, cache, version="")
    else:
        if address not in _known:
            _known[address] = store_of(address).facts(address)
        facts = _known[address]
        if facts.has_ranges and facts.size is not None:
            return RangedFile(address, cache, version=facts.version, size=facts.size, tag=facts.tag)
        file = StreamedFile(address, cache, version=facts.version, size=facts.size, tag=facts.tag)
    if file.size > 0.9 * address.remote.cache_bytes:
        raise DataError(
            f"{address} has {file.size / 1e9:.1f} GB and can only be read whole, which the cache of"
            f" {address.remote.cache_bytes / 1e9:.1f} GB does not hold: raise data.remote.cache_gb"
        )
    return file


def source_of(path: Path | Address) -> Path | bytes:
    """What readers of small files take: a path as it is, the content of an object."""
    return path if isinstance(path, Path) else read_object(path)


def read_object(address: Address, *, version: str | None = None) -> bytes:
    """All of a small object, an index or a manifest; kept in the cache where its version is known.

    Args:
        version: of the object that it belongs to and changes with; None: the store is asked for its own.

    Raises:
        Missing: there is none.
        DataError: it cannot be read.
    """
    store = store_of(address)
    if version is None:
        facts = store.facts(address)
        version = facts.version if facts.has_ranges else None
    if version is None:
        return store.whole(address)
    cache = cache_of(address.remote)
    blocks = cache.blocks(address.unsigned, version)
    if (size := cache.size(address.unsigned, version)) is not None:
        blocks.size = size
        kept = blocks.read(range(blocks.count))
        if len(kept) == blocks.count:
            return b"".join(kept.values())
    data = store.whole(address)
    blocks.size = len(data)
    cache.keep(blocks, {n: data[slice(*blocks.span(n))] for n in range(blocks.count)})
    cache.keep_size(address.unsigned, version, len(data))
    return data
