"""The report as one HTML page that needs nothing else: media embedded, no script, no network."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from portraitgen.metrics.page_style import STYLE
from portraitgen.metrics.plot import Line, line_plot
from portraitgen.metrics.results import Results
from portraitgen.metrics.saved import protocol_json
from portraitgen.metrics.scores import GENERATED, METHODS, Row
from portraitgen.metrics.tables import figure_table, graded, mark, missing_notes, shown_metrics

PLOTTED = ("psnr", "landmark_error")
MAX_PLOTTED_VIDEOS = 8

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


def report_page(results: Results, *, title: str, media: Sequence[Media] = ()) -> str:
    """The whole page as text.

    Args:
        results: what to report.
        title: heading of the page.
        media: files to embed, in their order.

    Raises:
        OSError: a media file cannot be read.
    """
    body = [
        f'<header><h1>{escape(title)}</h1><p class="quiet">{escape(graded(results))}</p></header>',
        _verdicts(results),
        _section("Figures", _figures(results)),
        *([_section("Pictures", "".join(map(_figure, media)))] if media else []),
        _section("Frame by frame", _plots(results)),
        *([_section("Videos", _videos(results))] if len(results.videos) > 1 else []),
        _section("Protocol", _protocol(results)),
    ]
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


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{heading}</h2>{content}</section>"


def _verdicts(results: Results) -> str:
    style = {True: "passed", False: "failed", None: "unknown"}
    items = "".join(
        f'<li><span class="badge {style[verdict.passed]}">{mark(verdict.passed)}</span>'
        f"<span>{escape(verdict.text)}</span></li>"
        for verdict in results.verdicts
    )
    return f'<ul class="verdicts" aria-label="Checks">{items}</ul>' if items else ""


def _figures(results: Results) -> str:
    header, body = figure_table(results)
    rows = [
        _table_row(method, [mean + (f"<small>{bounds}</small>" if bounds else "") for mean, bounds in cells])
        for method, cells in zip(results.estimates, body, strict=True)
    ]
    notes = [*missing_notes(results), f"Under each figure: {results.interval_statement}."]
    paragraphs = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f'{_table(header, rows)}<div class="quiet notes">{paragraphs}</div>'


def _videos(results: Results) -> str:
    names = [name for name in shown_metrics(results) if results.metrics[name].level != "set"]
    rows = [
        _table_row("", [escape(row.video), *[results.metrics[name].show(row.mean(name)) for name in names]])
        for row in results.rows
        if row.method == GENERATED
    ]
    return _table(["Generated video", *[results.metrics[name].heading for name in names]], rows)


def _table(header: Sequence[str], rows: Iterable[str]) -> str:
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    head, body = f"<thead><tr>{heads}</tr></thead>", f"<tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table>{head}{body}</table></div>'


def _table_row(style: str, cells: Sequence[str]) -> str:
    name, *figures = cells
    data = "".join(f"<td>{cell}</td>" for cell in figures)
    return f'<tr class="{style}"><th scope="row">{name}</th>{data}</tr>'


def _figure(media: Media) -> str:
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


def _plots(results: Results) -> str:
    by_video: dict[str, list[Row]] = {}
    for row in results.rows:
        by_video.setdefault(row.video, []).append(row)
    shown = list(by_video.items())[:MAX_PLOTTED_VIDEOS]
    parts = [_legend(results.estimates)]
    if len(shown) < len(by_video):
        parts.append(f'<p class="quiet">The first {len(shown)} of {len(by_video)} videos.</p>')
    for video, rows in shown:
        for name in PLOTTED:
            # Drawn in reverse, so that the generated clip lies on top.
            lines = [
                Line(METHODS[row.method].label, row.method, row.scores[name])
                for row in reversed(rows)
                if name in row.scores
            ]
            if not lines:
                continue
            metric = results.metrics[name]
            heading = f"{metric.heading}, {video}"
            plot = line_plot(
                rows[0].frames.tolist(),
                lines,
                title=f"{heading}: one line for each method over the frames",
                x_label="frame",
                y_label=metric.label + (f" ({metric.unit.strip()})" if metric.unit else ""),
                digits=metric.digits,
            )
            parts.append(f'<h3>{escape(heading)}</h3><div class="scroll">{plot}</div>')
    return "".join(parts)


def _legend(methods: Iterable[str]) -> str:
    items = "".join(
        f'<li><svg viewBox="0 0 34 10" aria-hidden="true"><g class="{method}"><path d="M2 5H32"/></g></svg>'
        f"{escape(METHODS[method].label)}</li>"
        for method in methods
    )
    return f'<ul class="legend">{items}</ul>'


def _protocol(results: Results) -> str:
    facts = protocol_json(results)
    apart = {
        name: facts.pop(name) for name in ("metrics", "graders", "videos", "versions", "settings", "source")
    }
    named = {f"{info['label']} ({name})": info["definition"] for name, info in apart["metrics"].items()}
    taken = {
        f"{name}: {fact}": value
        for name, stated in apart["graders"].items()
        for fact, value in stated.items()
    }
    return (
        _facts({name.replace("_", " "): value for name, value in {**facts, **apart["settings"]}.items()})
        + f"<details open><summary>How each figure is taken</summary>{_facts({**named, **taken})}</details>"
        + f"<details><summary>Versions</summary>{_facts(apart['versions'])}</details>"
    )


def _facts(facts: Mapping[str, object]) -> str:
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
