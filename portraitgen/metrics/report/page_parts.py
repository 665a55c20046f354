"""The parts that every report page is made of: media embedded, no script, no network."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from portraitgen.metrics.report.page_style import STYLE

_MEDIA_TYPES = {".mp4": "video/mp4", ".png": "image/png", ".jpg": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Media:
    """A video (.mp4) or picture (.png, .jpg) shown in the report.

    Raises:
        ValueError: a file of another kind.
    """

    path: Path
    caption: str

    def __post_init__(self) -> None:
        if self.path.suffix.lower() not in _MEDIA_TYPES:
            raise ValueError(f"{self.path}: a report shows {', '.join(_MEDIA_TYPES)} files")


def document(body: Iterable[str], *, title: str) -> str:
    """A whole page of the parts `body`."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # The page promises to need no network; the browser holds it to that.
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
            "media-src data:; style-src 'unsafe-inline'\">",
            f"<title>{escape(title)}</title><style>{STYLE}</style></head>",
            "<body><main>",
            *body,
            "</main></body></html>",
            "",
        ]
    )


def section(heading: str, content: str) -> str:
    """A part of the page under its heading (markup, as `content` is)."""
    return f"<section><h2>{heading}</h2>{content}</section>"


def table(header: Sequence[str], rows: Iterable[str], *, style: str = "") -> str:
    """A table of rows from `table_row`, which may be wider than the page."""
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    head, body = f"<thead><tr>{heads}</tr></thead>", f"<tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table class="{style}">{head}{body}</table></div>'


def table_row(cells: Sequence[str]) -> str:
    """A row of cells (markup), the first of which is its heading."""
    name, *figures = cells
    data = "".join(f"<td>{cell}</td>" for cell in figures)
    return f'<tr><th scope="row">{name}</th>{data}</tr>'


def note_list(notes: Iterable[str]) -> str:
    """Notes below a table, in small print."""
    return f'<div class="quiet notes">{"".join(f"<p>{escape(note)}</p>" for note in notes)}</div>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """What the lines of plots are: (class of the style sheet, label)."""
    items = "".join(
        f'<li><svg viewBox="0 0 34 10" aria-hidden="true"><g class="{style}"><path d="M2 5H32"/></g></svg>'
        f"{escape(label)}</li>"
        for style, label in entries
    )
    return f'<ul class="legend">{items}</ul>'


def figure(media: Media) -> str:
    """A video or picture with its caption, embedded."""
    kind = _MEDIA_TYPES[media.path.suffix.lower()]
    data = base64.b64encode(media.path.read_bytes()).decode("ascii")
    source, caption = f"data:{kind};base64,{data}", escape(media.caption, quote=True)
    if kind.startswith("video/"):
        shown = (
            f'<video controls loop muted autoplay playsinline aria-label="{caption}" src="{source}"></video>'
        )
    else:
        shown = f'<img alt="{caption}" src="{source}">'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def fact_list(facts: Mapping[str, object]) -> str:
    """Names and what they are."""
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(_said(value))}</dd>" for name, value in facts.items()
    )
    return f"<dl>{items}</dl>"


def _said(value: object) -> str:
    """A fact of the protocol in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    if isinstance(value, list):
        return "×".join(map(str, value)) if all(isinstance(each, int) for each in value) else str(value)
    return "–" if value is None else str(value)
