"""Where a shard lies that is on no disk of this machine: an address, with the parts that a path has."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from portraitgen.data.remote.settings import RemoteShards

PIPE = "pipe:"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_SECRET = re.compile(r"(?<=://)[^/\s]+@|\?[^\s'\")>]*")
# Of a query what is no part of a signature as S3 and Google write them.
_NOT_SIGNED = re.compile(r"(?:^|(?<=&))(?!X-(?:Amz|Goog)-)[^&]+", re.IGNORECASE)
_TAR_NAME = re.compile(r"[\w.-]+\.tar\b")


def is_address(pattern: str) -> bool:
    """Whether a pattern of `data.shards` names no path; file:// addresses are paths, see `local_path`."""
    return pattern.startswith(PIPE) or bool(_SCHEME.match(pattern))


def local_path(pattern: str) -> str:
    """The path that a file:// address names; anything else as it is."""
    return urlsplit(pattern).path if pattern.lower().startswith("file://") else pattern


def redacted(text: str) -> str:
    """Without what may be secret in addresses: user and password, and the query, where signatures stand."""
    return _SECRET.sub("", text)


@dataclass(frozen=True, order=True)
class Address:
    """Where an object lies, "s3://bucket/data/shards/train-000000.tar", or "pipe:" and the command that
    prints it.

    Written out (`str`) it is without secrets.
    """

    url: str
    remote: "RemoteShards" = field(compare=False, repr=False)

    def __str__(self) -> str:
        if self.is_pipe:
            return f"{PIPE}{self.url.removeprefix(PIPE).split()[0]} … {self.name}"
        return redacted(self.url)

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    @property
    def is_pipe(self) -> bool:
        return self.url.startswith(PIPE)

    @property
    def protocol(self) -> str:
        """The name of fsspec's file system."""
        return urlsplit(self.url).scheme.lower()

    @property
    def name(self) -> str:
        """Last part of the path; of a command the last name of a tar in it."""
        if not self.is_pipe:
            return urlsplit(self.url).path.rpartition("/")[2]
        names = _TAR_NAME.findall(self.url)
        return names[-1] if names else f"{hashlib.sha256(self.url.encode()).hexdigest()[:8]}.tar"

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0] or self.name

    @property
    def is_signed(self) -> bool:
        """Whether it has a query, which may be a signature of this object alone."""
        return not self.is_pipe and bool(urlsplit(self.url).query)

    @property
    def unsigned(self) -> str:
        """The URL without what is another one whenever somebody signs it anew."""
        if not self.is_signed:
            return self.url
        parts = urlsplit(self.url)
        return parts._replace(query="&".join(_NOT_SIGNED.findall(parts.query))).geturl()

    @property
    def parent(self) -> "Address":
        """Without the last part of the path; the query stays, which may be a key to a whole folder."""
        parts = urlsplit(self.url)
        return Address(parts._replace(path=parts.path.rpartition("/")[0], fragment="").geturl(), self.remote)

    def __truediv__(self, name: str) -> "Address":
        parts = urlsplit(self.url)
        return Address(parts._replace(path=f"{parts.path}/{name}").geturl(), self.remote)
