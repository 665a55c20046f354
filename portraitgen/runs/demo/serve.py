"""Serve the page: to this machine alone, unless asked for more by name, and then behind a password."""

import hmac
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from portraitgen.runs.demo.limits import Limits
from portraitgen.runs.demo.page import Page
from portraitgen.runs.demo.passing_file import PassingFile
from portraitgen.runs.demo.rules import Rules
from portraitgen.runs.demo.visits import Visits

log = logging.getLogger(__name__)

FILES = Path(__file__).parent


def serve(
    page: Page,
    visits: Visits,
    limits: Limits,
    *,
    host: str,
    port: int | None,
    password: str | None,
    share: bool,
    examples: Path,
) -> str:
    """Start the server, in threads of its own; its address.

    Args:
        examples: folder with files that visitors may try.

    Raises:
        ValueError: there is no such address, or the port is taken.
    """

    def is_right(_: str, given: str) -> bool:
        assert password is not None
        return hmac.compare_digest(given.encode(), password.encode())

    async def result(request: Request) -> Response:
        path = visits.result_file(**request.path_params)
        try:
            return PlainTextResponse("not found", 404) if path is None else PassingFile(path)
        except FileNotFoundError:
            return PlainTextResponse("not found", 404)

    options: dict[str, Any] = {
        "auth": is_right if password is not None else None,
        "auth_message": "Any name, and the password that you were given.",
        **_look(),
    }
    try:
        _, address, link = page.blocks.queue(default_concurrency_limit=None, max_size=200).launch(
            **options,
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            footer_links=[],
            run_history=False,
            allowed_paths=[str(examples)],
            max_file_size=limits.upload_mb * 1_000_000,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            app_kwargs={
                "routes": [Route("/result/{name}/{number}/{file}", result)],
                "middleware": [Middleware(Rules, is_full=_is_full(visits, limits))],
                "docs_url": None,
                "redoc_url": None,
                "openapi_url": None,
            },
        )
    except OSError as error:
        raise ValueError(f"host={host} port={port}: {error}") from error
    # Gradio makes it for an editor that is off here, among the files of visitors.
    with suppress(FileNotFoundError):
        (visits.uploads / "vibe_edit_history").rmdir()
    if link:
        log.info("public link: %s", link)
    return str(address)


def _is_full(visits: Visits, limits: Limits) -> Callable[[], bool]:
    return lambda: visits.stored_bytes() > limits.stored_mb * 1_000_000


def _look() -> dict[str, Any]:
    """Theme, styles and the script of the page; fonts are those of the visitor's machine."""
    from gradio.themes import Base, sizes

    sans = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
    theme = Base(
        primary_hue="indigo", neutral_hue="slate", font=sans, font_mono=mono, radius_size=sizes.radius_lg
    ).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        # Gradio's own greys are too pale to be read by everybody.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_300",
    )
    script = (FILES / "page.js").read_text()
    return {"theme": theme, "css": (FILES / "page.css").read_text(), "head": f"<script>{script}</script>"}
