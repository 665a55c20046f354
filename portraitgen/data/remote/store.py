"""Objects of a store by fsspec: what is there, ranges of bytes; with retries, and errors that say what to do.

A file system runs its requests in a thread of its own, which a forked process does not have: every process
opens its own (`store_of`).
"""

import asyncio
import functools
import logging
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import aiohttp
import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from portraitgen.data.remote.address import Address, redacted
from portraitgen.data.remote.settings import RemoteShards
from portraitgen.data.sample import DataError

log = logging.getLogger(__name__)

T = TypeVar("T")

Span = tuple[int, int]
"""First byte, and the first byte behind."""

_WEB = ("http", "https")
_PROTOCOLS = ("s3", "gs", *_WEB)
"""What is read. fsspec knows more, some of which run what they are given; an address may be anybody's."""

_PACKAGES = {"s3": ("s3fs", "'portraitgen[s3]'"), "gs": ("gcsfs", "'portraitgen[gs]'")}
"""Protocol → package that fsspec needs for it, and what pip installs it by."""

_SIGN_IN = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
    " data.remote.options={anon: true} for what is public",
    "gs": "run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, or"
    " data.remote.options={token: anon}",
}
_NO_CREDENTIALS = {
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"),
    *("TokenRetrievalError", "DefaultCredentialsError", "RefreshError", "SSOTokenLoadError"),
}
_LIBRARIES = {"aiohttp", "aiobotocore", "botocore", "s3fs", "gcsfs", "google", "requests", "urllib3"}
_TAGS = ("ETag", "Last-Modified")
_REFUSED, _GONE = (401, 403), (404, 410)
_WORTH_RETRYING = (408, 425, 429)
_LONGEST_DELAY = 60.0


class ObjectFacts(NamedTuple):
    """What a store says of an object: its size, what changes with its content, whether it gives ranges.

    `size` is None where a server does not say. `tag` is the part of the version by which each answer with
    bytes of the object is known as one of it: the ETag, a time, the generation at Google; "" where none is.
    """

    size: int | None
    version: str
    has_ranges: bool
    tag: str = ""


class StoreError(DataError):
    """A store does not give what it should. It is not a broken sample, which training goes on without."""


class Missing(StoreError):
    """There is no such object."""


class Refused(StoreError):
    """It may not be read with the credentials, or the signature, that are given."""


class Store:
    """The objects of one protocol, for one process.

    Args:
        protocol: such as "s3".
        remote: retries, time-outs, options of the file system.

    Raises:
        DataError: it is none that is read, or the package for it is not installed.
    """

    def __init__(self, protocol: str, remote: RemoteShards) -> None:
        self._protocol, self._remote = protocol, remote
        options: dict[str, Any] = dict(remote.options)
        if protocol not in _PROTOCOLS:
            known = ", ".join(f"{name}://" for name in _PROTOCOLS)
            raise DataError(f"data.shards: {protocol}:// is no kind of store that is read ({known}, pipe:)")
        if protocol == "s3":
            limits: dict[str, Any] = {"connect_timeout": remote.timeout, "read_timeout": remote.timeout}
            for library in ("botocore", "aiobotocore"):  # each process says where it found credentials
                logging.getLogger(f"{library}.credentials").setLevel(logging.WARNING)
            # Requests are made again here, where a line says so.
            limits["retries"] = {"max_attempts": 1}
            limits["max_pool_connections"] = remote.connections
            options["config_kwargs"] = {**limits, **options.get("config_kwargs", {})}
        if protocol in _WEB:
            # Of aiohttp's own limit, five minutes for all of an object, a whole shard may take more.
            limit = aiohttp.ClientTimeout(total=None, sock_connect=remote.timeout, sock_read=remote.timeout)
            options["client_kwargs"] = {"timeout": limit, **options.get("client_kwargs", {})}
            options.setdefault("get_client", functools.partial(_session, remote.connections))
        try:
            self._files = fsspec.filesystem(protocol, skip_instance_cache=True, **options)
        except ImportError as error:
            package, name = _PACKAGES[protocol]
            raise DataError(
                f"data.shards: {protocol}:// needs the package {package}: pip install {name}"
            ) from error
        except TypeError as error:
            raise DataError(f"data.remote.options do not fit {protocol}://: {error}") from error

    def facts(self, address: Address) -> ObjectFacts:
        """What is known of an object; `Missing` where there is none."""
        if self._protocol in _WEB:
            return retrying(address, functools.partial(self._sync, self._probe, address.url))
        return self._told(retrying(address, functools.partial(self._files.info, address.url, refresh=True)))

    def read(self, address: Address, spans: Sequence[Span], *, tag: str = "") -> list[bytes]:
        """The bytes of these spans, asked for at once; what failed is asked for again, not what came.

        Args:
            address, spans: which bytes.
            tag: of the object, as it was found: what has another one by now is refused.
        """
        found: dict[Span, bytes] = {}

        def fetch() -> list[bytes]:
            left = [span for span in spans if span not in found]
            failure: Exception | None = None
            for (start, end), part in zip(left, self._ranges(address.url, left, tag), strict=True):
                if isinstance(part, Exception):
                    failure = part
                elif tag and part[0] and part[0] != tag:
                    raise _replaced(address)
                elif len(part[1]) != end - start:
                    failure = EOFError(f"{len(part[1])} bytes came of bytes {start} to {end}")
                else:
                    found[start, end] = part[1]
            generation_is_gone = self._protocol == "gs" and isinstance(failure, FileNotFoundError)
            if _is_no_such_range(failure) or generation_is_gone:  # what was found had these bytes
                raise _replaced(address) from failure
            if failure is not None:
                raise failure
            return [found[span] for span in spans]

        return retrying(address, fetch)

    def whole(self, address: Address) -> bytes:
        """All bytes of a small object; `Missing` where there is none."""
        return retrying(address, functools.partial(self._files.cat_file, address.url))

    def stream(self, address: Address, *, tag: str = "") -> Any:
        """An object as a file to be read from its beginning to its end, see `read`."""
        file = retrying(address, functools.partial(self._files.open, address.url, "rb", block_size=0))
        if tag and self._protocol in _WEB and _tag(file.r.headers) not in ("", tag):
            file.close()
            raise _replaced(address)
        return file

    def children(self, folder: Address) -> dict[Address, ObjectFacts | None]:
        """What lies in a folder, and what is known of it; nothing where the store cannot say."""
        found = retrying(folder, functools.partial(self._files.ls, folder.url, detail=True, refresh=True))
        known = {}
        for info in sorted(found, key=itemgetter("name")):
            address = Address(self._files.unstrip_protocol(info["name"]), folder.remote)
            says = info.get("type") == "file" and self._protocol not in _WEB
            known[address] = self._told(info) if says else None
        return known

    def _told(self, info: Mapping[str, Any]) -> ObjectFacts:
        """What fsspec's file system of a store with byte ranges says of an object."""
        # Two servers may have buckets of one name.
        server = self._files.s3.meta.endpoint_url if self._protocol == "s3" else self._files._location
        names = ("ETag", "etag", "md5Hash", "LastModified", "size")
        version = "|".join([str(server), *(str(info[name]) for name in names if name in info)])
        tag = str(info.get("generation") or info.get("ETag") or "")
        return ObjectFacts(int(info["size"]), version, has_ranges=True, tag=tag)

    def _sync(self, function: Callable[..., Any], *given: Any) -> Any:
        assert isinstance(self._files, AsyncFileSystem)
        return sync(self._files.loop, function, *given, timeout=self._remote.timeout)

    def _ranges(self, url: str, spans: Sequence[Span], tag: str) -> list[tuple[str, bytes] | Exception]:
        """Of each span its bytes and the tag of the object that they are of, or what it failed by."""

        async def together() -> list[Any]:
            return await asyncio.gather(*(ask(url, span, tag) for span in spans), return_exceptions=True)

        assert isinstance(self._files, AsyncFileSystem)
        ask = {"s3": self._s3_range, "gs": self._gs_range}.get(self._protocol, self._web_range)
        return sync(self._files.loop, together)  # type: ignore[no-any-return]

    async def _s3_range(self, url: str, span: Span, tag: str) -> tuple[str, bytes]:
        bucket, key, version = self._files.split_path(url)
        given = {"Bucket": bucket, "Key": key, **({"VersionId": version} if version else {})}
        answer = await self._files._call_s3("get_object", Range=_range_header(span), **given)
        try:
            return answer.get("ETag", ""), await answer["Body"].read()
        finally:
            answer["Body"].close()

    async def _gs_range(self, url: str, span: Span, tag: str) -> tuple[str, bytes]:
        # The answer is of that generation, or there is none.
        return tag, await self._files._cat_file(url, start=span[0], end=span[1], generation=tag or None)

    async def _web_range(self, url: str, span: Span, tag: str) -> tuple[str, bytes]:
        async with self._get(url, span) as answer:
            if answer.status != 206:
                answer.close()
                raise EOFError(f"all of it came, not bytes {span[0]} to {span[1]}")
            return _tag(answer.headers), await answer.read()

    @asynccontextmanager
    async def _get(self, url: str, span: Span) -> AsyncIterator[aiohttp.ClientResponse]:
        """A web server's answer to the question for a range."""
        given = dict(self._files.kwargs)
        headers = {**given.pop("headers", {}), "Range": _range_header(span), "Accept-Encoding": "identity"}
        session = await self._files.set_session()
        async with session.get(self._files.encode_url(url), headers=headers, **given) as answer:
            if answer.status == 404:
                raise FileNotFoundError(url)
            answer.raise_for_status()
            yield answer

    async def _probe(self, url: str) -> ObjectFacts:
        """Ask a server for one byte: its answer says more surely than a header whether it gives ranges."""
        async with self._get(url, (0, 1)) as answer:
            told, tag = answer.headers, _tag(answer.headers)
            version = "|".join(told[name] for name in _TAGS if name in told)
            total = told.get("Content-Range", "").rpartition("/")[2]
            if answer.status == 206 and total.isdecimal():
                return ObjectFacts(int(total), f"{version}|{total}", has_ranges=True, tag=tag)
            length = told.get("Content-Length", "")
            version, size = f"{version}|{length}", int(length) if length.isdecimal() else None
            answer.close()  # else the whole object would be read
            return ObjectFacts(size, version, has_ranges=False, tag=tag)


async def _session(connections: int, **given: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections), **given)


_opening = threading.Lock()
"""Threads that fetch ahead begin together; each opening a store would read a library's tables again."""


def _after_fork() -> None:
    global _opening
    _opening = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


@functools.lru_cache(maxsize=64)
def _store(process: int, protocol: str, remote: RemoteShards) -> Store:
    return Store(protocol, remote)


def store_of(address: Address) -> Store:
    """The store of an address, this process's own."""
    with _opening:
        return _store(os.getpid(), address.protocol, address.remote)


def _range_header(span: Span) -> str:
    return f"bytes={span[0]}-{span[1] - 1}"


def _tag(headers: Mapping[str, str]) -> str:
    """What a web server's answer says of the object that it is of."""
    return next((headers[name] for name in _TAGS if name in headers), "")


def _replaced(address: Address) -> StoreError:
    return StoreError(
        f"data.shards: {address} is another object than when this run began: it was replaced. Samples and"
        " their order are those of the former one: put it back, or start again, and its index is read anew"
    )


def _is_no_such_range(error: Exception | None) -> bool:
    """Whether an object is too short for what was asked for."""
    told = getattr(error.__cause__, "response", {}).get("Error", {}) if error is not None else {}
    return getattr(error, "status", None) == 416 or told.get("Code") == "InvalidRange"


def _lacks_credentials(error: Exception) -> bool:
    return type(error).__name__ in _NO_CREDENTIALS


def _is_outside(error: Exception) -> bool:
    """Whether it is a failure of the network or of the store, not of this program."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | EOFError | asyncio.TimeoutError) or library in _LIBRARIES


def _said(error: Exception) -> str:
    text = redacted(" ".join(str(error).split()))[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _answer(error: Exception) -> Exception:
    """What went wrong. Of a file on the web whose size it cannot find out fsspec says that there is none."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, aiohttp.ClientError | TimeoutError):
        return error
    return error if getattr(cause, "status", None) in _GONE else cause


def retrying(address: Address, request: Callable[[], T]) -> T:
    """What a request gives; made again after failures that may pass, each time after a longer while.

    Raises:
        Missing: there is no such object.
        Refused: it may not be read.
        StoreError: the last attempt failed too.
    """
    remote = address.remote
    for attempt in range(remote.retries + 1):
        try:
            return request()
        except DataError:
            raise
        except Exception as raised:  # every library has errors of its own; those of none are passed on
            error = _answer(raised)
            if isinstance(error, FileNotFoundError):
                raise Missing(f"data.shards: there is no {address}") from error
            status = getattr(error, "status", None) or getattr(error, "code", None)
            if isinstance(error, PermissionError) or status in _REFUSED or _lacks_credentials(error):
                cure = _SIGN_IN.get(address.protocol, "give what the server wants in data.remote.options")
                if address.is_signed:
                    cure = "the signature in its address has ended, or is another object's: sign it anew"
                raise Refused(f"data.shards: {address} may not be read ({_said(error)}): {cure}") from error
            if not _is_outside(error):
                raise
            if isinstance(status, int) and 400 <= status < 500 and status not in _WORTH_RETRYING:
                raise StoreError(f"data.shards: {address} cannot be read: {_said(error)}") from error
            if attempt == remote.retries:
                raise StoreError(
                    f"data.shards: {address} could not be read in {attempt + 1} attempts, the last error"
                    f" being {_said(error)}; look at the network and the store, or raise data.remote.retries"
                ) from error
            delay = min(remote.retry_delay * 2**attempt, _LONGEST_DELAY) * random.uniform(0.75, 1.25)
            log.info(f"{address}: {_said(error)}; asked again in {delay:.1f} s")
            time.sleep(delay)
    raise AssertionError("the last attempt returns or raises")
