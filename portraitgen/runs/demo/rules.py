"""What a browser may ask the server for: a list of addresses; all else is refused before Gradio sees it."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PAGE = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|login|login/|logout)"
    r"|/(assets|static|svelte|result)/.+"
    r"|/gradio_api/(queue/(join|data)|run/predict|upload|upload_progress|heartbeat/\w+|cancel|app_id|startup-events|info)/?"
    r"|/gradio_api/file=(?![a-z][a-z0-9+.-]*:).+",
    re.IGNORECASE,
)
"""A page of ours and its parts; `file=` gives uploaded files only (Gradio looks where they lie), never an
address of another machine."""

_LARGEST_QUESTION = 2 << 20
"""Bytes of a question that is no uploaded file."""

_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
        b"font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' data: blob:; "
        b"frame-ancestors 'none'; base-uri 'self'; form-action 'self'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""No browser loads anything for this page from elsewhere, whatever is in it."""


class Rules:
    """ASGI middleware.

    Args:
        app: that answers what is allowed.
        is_full: whether no more uploaded files fit onto the disk.
    """

    def __init__(self, app: ASGIApp, is_full: Callable[[], bool]) -> None:
        self._app, self._is_full = app, is_full

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        path = unquote(scope["path"])
        if not _PAGE.fullmatch(path) or ".." in path.split("/"):
            await PlainTextResponse("not found", 404)(scope, receive, send)
            return
        uploads = path.startswith("/gradio_api/upload") and scope["method"] == "POST"
        if uploads and self._is_full():
            await PlainTextResponse("the disk is full of files: come back in a while", 507)(
                scope, receive, send
            )
            return
        if scope["method"] == "POST" and not uploads:
            body = await _body(receive)
            if body is None or _names_an_address(body):
                await PlainTextResponse("refused", 400)(scope, receive, send)
                return
            receive = _again(body, receive)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, with_headers)


async def _body(receive: Receive) -> bytes | None:
    """The whole of a question; None when it is too large."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _LARGEST_QUESTION:
            return None
        if not message.get("more_body", False):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the question that has been read, then what comes after it."""
    messages: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def again() -> Message:
        first = next(messages, None)
        return await receive() if first is None else first

    return again


def _names_an_address(body: bytes) -> bool:
    """Whether a question names a file on another machine, which Gradio would fetch."""
    try:
        said: Any = json.loads(body)
    except (ValueError, RecursionError):
        return False  # a form
    waiting = [said]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and re.match(r"\s*[a-z][a-z0-9+.-]*:", path, re.IGNORECASE):
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False
