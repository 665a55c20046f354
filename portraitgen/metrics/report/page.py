"""The report of one evaluation as an HTML page that needs nothing else."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from portraitgen.metrics.report.page_parts import (
    Media,
    document,
    fact_list,
    figure,
    legend,
    note_list,
    section,
    table,
    table_row,
)
from portraitgen.metrics.report.plot import Line, line_plot
from portraitgen.metrics.report.tables import figure_table, graded, mark, missing_notes, shown_metrics
from portraitgen.metrics.results import Results
from portraitgen.metrics.saved import protocol_json
from portraitgen.metrics.scores import GENERATED, METHODS, Row

PLOTTED = ("psnr", "landmark_error")
MAX_PLOTTED_VIDEOS = 8


def report_page(
    results: Results,
    *,
    title: str,
    media: Sequence[Media] = (),
    media_heading: str = "Pictures",
    papers: str = "",
) -> str:
    """The whole page as text.

    Args:
        results: what to report.
        title: heading of the page.
        media: files to embed, in their order.
        media_heading: what they are.
        papers: a part with figures of papers, from `paper_tables.papers_part`.

    Raises:
        OSError: a media file cannot be read.
    """
    body = [
        f'<header><h1>{escape(title)}</h1><p class="quiet">{escape(graded(results))}</p></header>',
        _verdicts(results),
        section("Figures", _figures(results)),
        *([section(escape(media_heading), media_grid(media))] if media else []),
        section("Frame by frame", _plots(results)),
        *([section("Videos", _videos(results))] if len(results.videos) > 1 else []),
        papers,
        *([section("Skipped", skipped_list(results.skipped))] if results.skipped else []),
        section("Protocol", protocol_part(protocol_json(results))),
    ]
    return document(body, title=title)


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
        table_row([escape(mean) + (f"<small>{bounds}</small>" if bounds else "") for mean, bounds in cells])
        for cells in body
    ]
    notes = [*missing_notes(results), f"Under each figure: {results.interval_statement}."]
    return table(header, rows, style="figures") + note_list(notes)


def _videos(results: Results) -> str:
    names = [name for name in shown_metrics(results) if results.metrics[name].level != "set"]
    rows = [
        table_row([escape(row.video), *[results.metrics[name].show(row.mean(name)) for name in names]])
        for row in results.rows
        if row.method == GENERATED
    ]
    return table(["Generated video", *[results.metrics[name].heading for name in names]], rows)


def _plots(results: Results) -> str:
    by_video: dict[str, list[Row]] = {}
    for row in results.rows:
        if row.failure is None:
            by_video.setdefault(row.video, []).append(row)
    shown = list(by_video.items())[:MAX_PLOTTED_VIDEOS]
    parts = [legend([(method, METHODS[method].label) for method in results.estimates])]
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


def media_grid(media: Sequence[Media]) -> str:
    """All media, one below the other."""
    return "".join(map(figure, media))


def skipped_list(skipped: Mapping[str, str]) -> str:
    """The graders that had no weights, each with what to do about it."""
    return fact_list(skipped)


def protocol_part(protocol: Mapping[str, Any]) -> str:
    """A protocol in JSON as lists of facts: the whole of it, how each figure is taken, versions."""
    apart = ("metrics", "graders", "videos", "versions", "settings", "source")
    stated = {name: value for name, value in protocol.items() if name not in apart}
    named = {f"{info['label']} ({name})": info["definition"] for name, info in protocol["metrics"].items()}
    taken = {
        f"{grader}: {fact}": value
        for grader, facts in protocol["graders"].items()
        for fact, value in facts.items()
    }
    plain = {name.replace("_", " "): value for name, value in {**stated, **protocol["settings"]}.items()}
    return (
        fact_list(plain)
        + "<details open><summary>How each figure is taken</summary>"
        + f"{fact_list({**named, **taken})}</details>"
        + f"<details><summary>Versions</summary>{fact_list(protocol['versions'])}</details>"
    )
