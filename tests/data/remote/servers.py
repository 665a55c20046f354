"""Servers of a folder: with byte ranges, without, and an S3 in memory."""

import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "faces"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret"}


class PlainHandler(SimpleHTTPRequestHandler):
    """As Python serves a folder: no byte ranges."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *given: Any) -> None:
        pass


class RangeHandler(PlainHandler):
    """The same, with byte ranges."""

    def send_head(self) -> BinaryIO | None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            return super().send_head()  # type: ignore[return-value]
        size = path.stat().st_size
        first, last = int(wanted[1]), min(int(wanted[2]), size - 1)
        if first >= size:
            self.send_error(416)
            return None
        with path.open("rb") as file:
            file.seek(first)
            data = file.read(last - first + 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.end_headers()
        return io.BytesIO(data)


@contextmanager
def web_server(folder: Path, handler: type[PlainHandler] = RangeHandler) -> Iterator[int]:
    """The port of a server of this folder."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *given: Any) -> None:
            """A client that is gone is no news."""

    server = Server(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def s3_client(port: int) -> Any:
    """Of boto3, for the S3 server at this port."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )


@contextmanager
def s3_server(folder: Path) -> Iterator[int]:
    """The port of moto's S3 server, with the files of this folder in BUCKET, below "data/"."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        client = s3_client(port)
        client.create_bucket(Bucket=BUCKET)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.upload_file(str(path), BUCKET, f"data/{path.relative_to(folder)}")
        yield port
    finally:
        server.stop()


def sign_in(monkeypatch: Any) -> None:
    """Credentials as somebody's environment has them; no other settings of AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
