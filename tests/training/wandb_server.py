"""A server of W&B as far as a run needs one: it lets it begin, takes its rows, and can fall silent."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_RUN = {
    "id": "1",
    "displayName": "n",
    "historyLineCount": 0,
    "project": {"id": "1", "name": "p", "entity": {"id": "1", "name": "e"}},
}


def _answered(query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """What GraphQL gives for the questions that W&B asks before and after it takes rows."""
    if "upsertBucket" in query:
        return {"upsertBucket": {"bucket": {**_RUN, "name": variables["name"]}, "inserted": True}}
    if "createRunFiles" in query:
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": []}}
    viewer = {"id": "1", "entity": "e", "username": "e", "flags": "{}", "teams": {"edges": []}}
    return {"viewer": viewer, "serverInfo": {"features": []}}


class WandbServer:
    """What it was sent, and whether it answers.

    Attributes:
        rows: of metrics, in the order in which they came.
        silent: it hangs up on whoever asks.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.silent = False
        self.url = ""

    def take(self, path: str, content: bytes) -> bytes:
        """The answer to a request."""
        if path == "/graphql":
            asked = json.loads(content)
            return json.dumps({"data": _answered(asked["query"], asked.get("variables") or {})}).encode()
        if path.endswith("/file_stream"):
            lines = json.loads(content).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.rows += map(json.loads, lines)
        return b"{}"


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """One on this machine."""
    state = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *given: Any) -> None:
            pass

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if state.silent:
                self.close_connection = True
                return
            answer = state.take(self.path, content)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PUT = do_POST

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *given: Any) -> None:
            """A client that is gone is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
