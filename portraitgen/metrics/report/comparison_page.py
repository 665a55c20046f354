"""A comparison of runs as an HTML page that needs nothing else."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from portraitgen.metrics.comparison import Comparison
from portraitgen.metrics.report.comparison_tables import LOUD, comparison_notes, comparison_table
from portraitgen.metrics.report.page import media_grid, protocol_part
from portraitgen.metrics.report.page_parts import (
    Media,
    document,
    fact_list,
    legend,
    note_list,
    section,
    table,
    table_row,
)
from portraitgen.metrics.report.plot import Bar, Line, interval_plot, line_plot
from portraitgen.metrics.scores import GENERATED, Row

NUM_STYLES = 6
"""Classes run0, run1, … of the style sheet; later runs use them again."""


def comparison_page(
    comparison: Comparison,
    *,
    title: str,
    media: Sequence[Media] = (),
    media_heading: str = "Side by side",
    papers: str = "",
) -> str:
    """The whole page as text.

    Args:
        comparison: from `compare`.
        title: heading of the page.
        media: files to embed, in their order.
        media_heading: what they are.
        papers: a part with figures of papers, from `paper_tables.papers_part`.

    Raises:
        OSError: a media file cannot be read.
    """
    styles = {label: f"run{index % NUM_STYLES}" for index, label in enumerate(comparison.runs)}
    first = next(iter(comparison.runs.values()))
    count = len(comparison.videos)
    body = [
        f'<header><h1>{escape(title)}</h1><p class="quiet">{len(comparison.runs)} runs on {count} '
        f"video{'s' * (count != 1)}</p></header>",
        _alarm(comparison),
        section("Figures", _figures(comparison)),
        section("Intervals", _intervals(comparison, styles)),
        *([section(escape(media_heading), media_grid(media))] if media else []),
        *_frame_plots(comparison, styles),
        section("What differs between the runs", _settings(comparison)),
        papers,
        section("Protocol", protocol_part(_shared_protocol(first.protocol))),
    ]
    return document(body, title=title)


def _alarm(comparison: Comparison) -> str:
    if not comparison.clashes:
        return ""
    items = "".join(
        f"<li><b>{escape(label)}</b>: {escape(line)}</li>"
        for label, found in comparison.clashes.items()
        for line in found
    )
    return f'<div class="alarm" role="alert"><strong>{LOUD}.</strong><ul>{items}</ul></div>'


def _figures(comparison: Comparison) -> str:
    header, body = comparison_table(comparison)
    rows = []
    for cells in body:
        row = []
        for mean, bounds, difference in cells:
            verdict = difference.rpartition(" ")[2] if difference else ""
            below = f"<small>{escape(bounds)}</small>" if bounds else ""
            below += f'<small class="{escape(verdict)}">{escape(difference)}</small>' if difference else ""
            row.append(escape(mean) + below)
        rows.append(table_row(row))
    return table(header, rows, style="runs") + note_list(comparison_notes(comparison))


def _intervals(comparison: Comparison, styles: Mapping[str, str]) -> str:
    parts = [legend([(style, label) for label, style in styles.items()])]
    for name, metric in comparison.metrics.items():
        bars = [
            Bar(label, styles[label], figures[name].mean, figures[name].interval)
            for label, figures in comparison.estimates.items()
        ]
        if any(np.isfinite(bar.mean) for bar in bars):
            plot = interval_plot(bars, title=f"{metric.heading} of each run", digits=metric.digits)
            parts.append(f'<div class="part"><h3>{escape(metric.heading)}</h3>{plot}</div>')
    return f"{parts[0]}<div class='parts'>{''.join(parts[1:])}</div>"


def _frame_plots(comparison: Comparison, styles: Mapping[str, str]) -> list[str]:
    """For a single video, the figures of its frames; of more videos the tables and intervals tell."""
    if len(comparison.videos) != 1:
        return []
    video = comparison.videos[0]
    rows: dict[str, Row] = {}
    for label, run in comparison.runs.items():
        for row in run.rows:
            if row.video == video and row.method == GENERATED and row.failure is None:
                rows[label] = row
    parts = [legend([(style, label) for label, style in styles.items()])]
    frames: list[int] = min((row.frames.tolist() for row in rows.values()), key=len, default=[])
    for name, metric in comparison.metrics.items():
        lines = [
            Line(label, styles[label], row.scores[name][: len(frames)])
            for label, row in reversed(rows.items())
            if metric.level == "frame" and name in row.scores
        ]
        if lines and any(len(set(line.values.tolist())) > 2 for line in lines):
            heading = f"{metric.heading}, {video}"
            plot = line_plot(
                frames,
                lines,
                title=f"{heading}: one line for each run over the frames",
                x_label="frame",
                y_label=metric.label,
                digits=metric.digits,
            )
            parts.append(f'<h3>{escape(heading)}</h3><div class="scroll">{plot}</div>')
    return [section("Frame by frame", "".join(parts))] if len(parts) > 1 else []


def _settings(comparison: Comparison) -> str:
    """The settings in which the runs differ, and where their results lie."""
    protocols = {label: run.protocol for label, run in comparison.runs.items()}
    names = dict.fromkeys(name for protocol in protocols.values() for name in protocol["settings"])
    rows = []
    for name in names:
        values = [protocol["settings"].get(name) for protocol in protocols.values()]
        if len({str(value) for value in values}) > 1:
            rows.append(table_row([escape(name), *(escape(_short(value)) for value in values)]))
    rows.append(table_row(["protocol", *(protocol["fingerprint"] for protocol in protocols.values())]))
    skipped = {
        f"skipped in {label}: {name}": why
        for label, run in comparison.runs.items()
        for name, why in run.skipped.items()
    }
    return table(["", *protocols], rows, style="runs") + (fact_list(skipped) if skipped else "")


def _short(value: object) -> str:
    text = "–" if value is None else str(value)
    return "/".join(text.split("/")[-3:])


def _shared_protocol(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The first run's protocol without what is its own."""
    own = ("command", "commit", "missing_faces", "intervals")
    return {**{name: value for name, value in protocol.items() if name not in own}, "settings": {}}
