"""A server of files with byte ranges, in a process of its own, as far away and as narrow as one wishes.

It is also an S3 to those who only read objects whose names they know: it checks no signatures, and lists
nothing.
"""

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

_PIECE = 1 << 17


@dataclass(frozen=True)
class FastServer:
    """What is known of a server that runs.

    Attributes:
        url: of the folder.
    """

    url: str
    _sent: Any
    _bandwidth: Any

    @property
    def sent(self) -> int:
        """Bytes of bodies so far."""
        return int(self._sent.value)

    def narrow(self, bandwidth: float | None) -> None:
        """From now on so many bytes a second over all connections together; None: as fast as it goes."""
        self._bandwidth.value = bandwidth or 0.0


@contextmanager
def fast_server(folder: Path, *, latency: float) -> Iterator[FastServer]:
    """One of this folder.

    Args:
        folder: names of files in it are paths at the server.
        latency: seconds before each answer.
    """
    context = multiprocessing.get_context("spawn")
    sent, bandwidth = context.Value("q", 0), context.Value("d", 0.0)
    here, there = context.Pipe()
    given = (folder, latency, sent, bandwidth, there)
    process = context.Process(target=_run, args=given, daemon=True)
    process.start()
    try:
        yield FastServer(f"http://127.0.0.1:{here.recv()}", sent, bandwidth)
    finally:
        process.terminate()
        process.join()


def _run(folder: Path, latency: float, sent: Any, bandwidth: Any, port: Any) -> None:
    asyncio.run(_serve(folder, latency, sent, bandwidth, port))


async def _serve(folder: Path, latency: float, sent: Any, bandwidth: Any, port: Any) -> None:
    free = 0.0  # when the line has sent all that it was given

    async def wait_for_the_line(size: int) -> None:
        nonlocal free
        if bandwidth.value:
            free = max(free, now := time.monotonic()) + size / bandwidth.value
            await asyncio.sleep(free - now)

    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(latency)
        path = folder / request.match_info["path"]
        if not path.is_file():
            raise web.HTTPNotFound
        facts, wanted = path.stat(), request.http_range
        first = wanted.start or 0
        end = min(facts.st_size if wanted.stop is None else wanted.stop, facts.st_size)
        part = "Range" in request.headers
        response = web.StreamResponse(status=206 if part else 200)
        response.content_length = end - first
        response.last_modified = facts.st_mtime
        response.etag = f"{facts.st_mtime_ns:x}-{facts.st_size:x}"
        if part:
            response.headers["Content-Range"] = f"bytes {first}-{end - 1}/{facts.st_size}"
        await response.prepare(request)
        if request.method == "GET":
            with path.open("rb") as file, suppress(ConnectionResetError):  # a client that is gone is no news
                file.seek(first)
                for begin in range(first, end, _PIECE):
                    piece = file.read(min(_PIECE, end - begin))
                    await wait_for_the_line(len(piece))
                    await response.write(piece)
                    sent.value += len(piece)
        return response

    application = web.Application()
    application.router.add_get("/{path:.+}", answer)  # and HEAD
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port.send(runner.addresses[0][1])
    await asyncio.Event().wait()
