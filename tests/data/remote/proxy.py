"""A proxy in front of a server: it counts, waits, answers with errors and cuts connections, on purpose."""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What belongs to a connection, not to what is sent over it.
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class Proxy:
    """Passes requests on to a server of this machine. A context manager.

    Args:
        port: of the server.
        latency: seconds before each answer.

    Attributes:
        plan: what happens to a request, by its number from 0: None, "error" (503), "slow down" (as S3 says
            it), "gone" (404), "cut" (the connection ends in the middle of the body).
        sent: bytes of bodies that went through, by path.
        asked: (method, path, range) of all requests.
    """

    def __init__(self, port: int, *, latency: float = 0.0) -> None:
        self.latency = latency
        self.plan: Callable[[int, str], str | None] = lambda number, path: None
        self.sent: Counter[str] = Counter()
        self.asked: list[tuple[str, str, str | None]] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *given: Any) -> None:
                pass

            def do_GET(self) -> None:
                proxy._pass_on(self, port)

            do_HEAD = do_GET

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *given: Any) -> None:
                """A client that is gone is no news."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *given: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def forget(self) -> None:
        """Count from nothing."""
        with self._lock:
            self.sent.clear()
            self.asked.clear()

    @property
    def total(self) -> int:
        """Bytes of all bodies."""
        return sum(self.sent.values())

    def _pass_on(self, request: BaseHTTPRequestHandler, port: int) -> None:
        with self._lock:
            number = len(self.asked)
            self.asked.append((request.command, request.path, request.headers.get("Range")))
        time.sleep(self.latency)
        fate = self.plan(number, request.path)
        if fate in ("error", "slow down"):
            code = "SlowDown" if fate == "slow down" else "InternalError"
            body = f"<Error><Code>{code}</Code><Message>later</Message></Error>".encode()
            self._answer(request, 503, {"Content-Type": "application/xml"}, body)
            return
        if fate == "gone":
            self._answer(request, 404, {}, b"")
            return
        # The server checks signatures, of which the host is a part: it is passed on as it came.
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            body = answer.read()
            told = {k: v for k, v in answer.getheaders() if k.lower() not in _HOP}
            length = answer.getheader("Content-Length") if request.command == "HEAD" else None
        finally:
            connection.close()
        self._answer(request, answer.status, told, body, length=length, cut=fate == "cut")

    def _answer(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes,
        *,
        length: str | None = None,
        cut: bool = False,
    ) -> None:
        request.send_response_only(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", length or str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            part = body[: len(body) // 2] if cut else body
            with self._lock:
                self.sent[request.path] += len(part)
            request.wfile.write(part)
        if cut:
            request.close_connection = True
