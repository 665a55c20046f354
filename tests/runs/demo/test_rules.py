"""What a browser may ask for; no address of another machine is fetched for it."""

import asyncio
import json

import pytest

pytest.importorskip("gradio", reason="needs the extra demo")


def ask(path, *, method="GET", body=b"", full=False):
    """Status and headers of an answer, and what the app behind was asked."""
    from portraitgen.runs.demo.rules import Rules

    seen, sent = [], []

    async def app(scope, receive, send):
        seen.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": []}
    asyncio.run(Rules(app, is_full=lambda: full)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), seen


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/config",
        "/theme.css",
        "/assets/index-a.js",
        "/result/name/1/a.mp4",
        "/gradio_api/queue/data",
        "/login",
    ]
    + ["/gradio_api/file=/tmp/x/uploads/a.jpg", "/gradio_api/heartbeat/abc"],
)
def test_the_page_and_its_parts(path):
    status, headers, _ = ask(path)
    assert status == 200
    assert b"default-src 'self'" in headers[b"content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=https://example.org/a",
        "/gradio_api/file=http:/example.org",
        "/gradio_api/file=FTP://x/a",
    ]
    + [
        "/gradio_api/proxy=https://a.hf.space/",
        "/gradio_api/component_server",
        "/monitoring",
        "/docs",
        "/openapi.json",
    ]
    + [
        "/gradio_api/call/run",
        "/gradio_api/runs",
        "/assets/../secret",
        "/gradio_api/mcp/sse",
        "/file=/etc/passwd",
    ]
    + ["/gradio_api/deep_link", "/gradio_api/run-history/connect"],
)
def test_all_else_is_refused(path):
    status, _, seen = ask(path)
    assert status == 404
    assert not seen


def test_no_file_of_another_machine_is_fetched():
    def join(path):
        data = {"data": [1, [{"path": path, "meta": {"_type": "gradio.FileData"}}]]}
        return ask("/gradio_api/queue/join", method="POST", body=json.dumps(data).encode())

    status, _, seen = join("/tmp/uploads/a.jpg")
    assert status == 200
    assert b"/tmp/uploads/a.jpg" in seen[0]
    for path in ("https://example.org/a.jpg", " HTTP://127.0.0.1/", "file:///etc/passwd"):
        assert join(path)[0] == 400


def test_bounds():
    assert ask("/gradio_api/queue/join", method="POST", body=b"x" * (3 << 20))[0] == 400
    assert ask("/gradio_api/upload", method="POST", full=True)[0] == 507
    assert ask("/gradio_api/upload", method="POST", body=b"x" * (3 << 20))[0] == 200
