"""How shards are read that do not lie on a disk of this machine: `data.remote`."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from portraitgen.data.sample import DataError
from portraitgen.media.files import cannot_write


class RemoteShards:
    """Settings of reading shards by their addresses (s3://, gs://, https://, pipe:).

    Args:
        cache: folder on a disk of the node, shared by all processes that read there; None: one of the user's
            own in the system's folder for temporary files (TMPDIR).
        cache_gb: how much of that disk is used, give or take a hundredth for each process that reads; what
            was not read for longest goes first.
        retries: how often a request that failed is made again.
        retry_delay: seconds before the first of them; each later one waits twice as long, a minute at most.
        timeout: seconds after which a request that brings nothing has failed.
        ahead: samples that each reading process fetches ahead of the one that it decodes.
        connections: requests that each reading process makes at a time.
        options: keywords of fsspec's file system, such as {endpoint_url: http://…, anon: true}. Keys and
            tokens are better given by the environment or a profile: a run's config.yaml holds these options.

    Raises:
        DataError: a value that makes no sense.
    """

    def __init__(
        self,
        *,
        cache: str | None = None,
        cache_gb: float = 50.0,
        retries: int = 6,
        retry_delay: float = 0.5,
        timeout: float = 60.0,
        ahead: int = 8,
        connections: int = 8,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        limits = {
            "cache_gb": (cache_gb, 1e-6, 1e6),
            "retries": (retries, 0, 100),
            "retry_delay": (retry_delay, 0, 60),
            "timeout": (timeout, 0.001, 3600),
            "ahead": (ahead, 0, 10_000),
            "connections": (connections, 1, 256),
        }
        for name, (value, least, most) in limits.items():
            if not least <= value <= most:
                raise DataError(f"data.remote.{name}={value}: give a number from {least:g} to {most:g}")
        self.retries, self.retry_delay, self.timeout = retries, retry_delay, timeout
        self.ahead, self.connections = ahead, connections
        self.options = dict(options or {})
        self.cache_bytes = round(cache_gb * 1e9)
        self._cache = cache

    def cache_folder(self) -> Path:
        """Where fetched bytes are kept; made when absent.

        Raises:
            ValueError: nothing can be written there, or the default one belongs to somebody else.
        """
        own = self._cache is None
        default = Path(tempfile.gettempdir()) / f"portraitgen-shards-{os.getuid()}"
        folder = default if self._cache is None else Path(self._cache)
        try:
            folder.mkdir(0o700 if own else 0o777, parents=True, exist_ok=True)
            if own and (folder.is_symlink() or folder.stat().st_uid != os.getuid()):
                raise DataError(
                    f"{folder} belongs to somebody else: say where fetched shards are kept "
                    "(data.remote.cache=…)"
                )
            if not os.access(folder, os.W_OK):
                raise PermissionError(None, "no permission")
        except OSError as error:
            raise cannot_write(folder, error) from error
        return folder
