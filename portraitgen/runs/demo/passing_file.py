"""A file of a visit as an answer, whose visitor may leave meanwhile and take it along."""

from pathlib import Path

from starlette.responses import FileResponse, PlainTextResponse
from starlette.types import Message, Receive, Scope, Send


class PassingFile(FileResponse):
    """Gives out a file; 404 where it is gone before its first byte.

    Raises:
        FileNotFoundError: it is gone already.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, headers={"cache-control": "private, no-store"}, stat_result=path.stat())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Starlette says that all is well before it opens the file: this waits until it has."""
        head: Message | None = None

        async def later(message: Message) -> None:
            nonlocal head
            if message["type"] == "http.response.start":
                head = message
                return
            if head is not None:
                await send(head)
                head = None
            await send(message)

        try:
            await super().__call__(scope, receive, later)
        except FileNotFoundError:
            await PlainTextResponse("not found", 404)(scope, receive, send)
