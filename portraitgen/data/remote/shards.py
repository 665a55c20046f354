"""Shards at addresses: find them, open their indexes first."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from portraitgen.data.archive import Archive
from portraitgen.data.index import ShardIndex, index_path
from portraitgen.data.remote.address import Address
from portraitgen.data.remote.opened import cache_of, found, open_bytes, read_object
from portraitgen.data.remote.settings import RemoteShards
from portraitgen.data.remote.store import Missing, Refused, StoreError, store_of
from portraitgen.data.remote.stream import StreamedFile
from portraitgen.data.sample import DataError
from portraitgen.data.scan import scan_archive

log = logging.getLogger(__name__)

# A "?" begins the query of an address.
_WILD = frozenset("*[")
_SCANNED_AT_ONCE = 32 << 20


def find_addresses(pattern: str, remote: RemoteShards) -> list[Address]:
    """Addresses of the shards that a pattern without braces names; stars may stand in the last part.

    Raises:
        DataError: none does, or the store cannot list a folder.
    """
    address = Address(pattern, remote)
    if address.is_pipe or not _WILD & set(address.name):
        found(address, None)
        return [address]
    if _WILD & set(urlsplit(address.parent.url).path):
        raise DataError(f"data.shards: {address}: stars may stand in the last part of an address only")
    folder = address.parent
    try:
        there = store_of(folder).children(folder)
    except Missing:
        there = {}
    matching = [each for each in there if fnmatchcase(each.name, address.name)]
    for each in matching:
        found(each, there[each])
    if not matching:
        advice = "; it lists nothing: write the names out, such as train-{000000..000127}.tar"
        raise DataError(
            f"data.shards: no shard in {folder} matches '{address.name}'{'' if there else advice}"
        )
    return matching


def open_indexes(shards: Sequence[Address]) -> list[ShardIndex]:
    """The indexes of shards, several at a time; a line says which shards can only be read whole.

    Raises:
        DataError: a shard is missing or cannot be read.
    """
    with ThreadPoolExecutor(max(shard.remote.connections for shard in shards)) as pool:
        opened = list(pool.map(_open_index, shards))
    whole = [(shard, size) for shard, (_, size) in zip(shards, opened, strict=True) if size is not None]
    if whole:
        total, capacity = sum(size for _, size in whole) / 1e9, whole[0][0].remote.cache_bytes / 1e9
        log.warning(
            f"{len(whole)} shard(s) cannot be read by byte ranges, {whole[0][0]} being the first: each is"
            f" streamed whole, {total:.3g} GB in all, and again in every pass over the data if it does not"
            f" stay in the cache of {capacity:.3g} GB (data.remote.cache_gb); from a store with byte ranges a"
            " window takes a small part of that"
        )
    return [index for index, _ in opened]


def _open_index(shard: Address) -> tuple[ShardIndex, int | None]:
    """Its index, and its size if it can only be read whole."""
    file = open_bytes(shard)
    archive, size = Archive(shard), file.size if isinstance(file, StreamedFile) else None
    stored, problem = None, "has no index"
    if not shard.is_pipe:
        where = index_path(shard)
        for version in (file.version, None):  # None: as it is now, should the one in the cache be damaged
            try:
                stored = ShardIndex.load(read_object(where, version=version), name=str(where))
                break
            except Missing:
                break
            except Refused:
                if not shard.is_signed:
                    raise
                problem = "has an index that the signature in its address is not for"
                break
            except StoreError:
                raise
            except DataError as error:
                problem = str(error)
        if stored is not None and int(stored.shard_bytes) == archive.size:
            return stored, size
        if stored is not None:
            problem = f"is {archive.size} bytes long, its index was made of {int(stored.shard_bytes)}"
    return _scanned(shard, archive, file.version, problem), size


def _scanned(shard: Address, archive: Archive, version: str, problem: str) -> ShardIndex:
    """An index made of all of the shard; it stays in the folder of the cache, and is made once."""
    path = cache_of(shard.remote).path(shard.unsigned, version).with_suffix(".idx.npz")
    if path.is_file():
        try:
            made = ShardIndex.load(path)
        except DataError as error:
            log.warning(f"{error}; it is made again")
        else:
            if int(made.shard_bytes) == archive.size:
                return made
    for begin in range(0, archive.size, _SCANNED_AT_ONCE):  # else in requests of a block
        archive.file.fetch([(begin, begin + _SCANNED_AT_ONCE)])
    index, unusable = scan_archive(archive)
    causes = "".join(f"; {key}: {reason}" for key, reason in unusable[:3])
    log.warning(
        f"shard {shard} {problem}: all of it was read to make one, {len(index)} samples can be used{causes}"
    )
    index.save(path)
    return index
