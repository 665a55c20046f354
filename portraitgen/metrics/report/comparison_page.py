"""A comparison of runs as an HTML page that needs nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from portraitgen.metrics.comparison import Comparison
from portraitgen.metrics.report.comparison_tables import LOUD, comparison_notes, comparison_table
from portraitgen.metrics.report.media import Media
from portraitgen.metrics.report.page_parts import PAPER_NOTES, Cell, PageTable, paper_part, protocol_part
from portraitgen.metrics.report.paper_tables import PaperTable
from portraitgen.metrics.report.plot import Bar, Line, interval_plot, line_plot
from portraitgen.metrics.report.render import render
from portraitgen.metrics.scores import GENERATED, Row

NUM_STYLES = 6
"""Classes run0, run1, … of the style sheet; later runs use them again."""


def comparison_page(
    comparison: Comparison,
    *,
    title: str,
    media: Sequence[Media] = (),
    media_heading: str = "Side by side",
    papers: Sequence[PaperTable] = (),
) -> str:
    """The whole page as text.

    Args:
        comparison: from `compare`.
        title: heading of the page.
        media: files to embed, in their order.
        media_heading: what they are.
        papers: tables of papers to print beside the figures.

    Raises:
        OSError: a media file cannot be read.
    """
    styles = {label: f"run{index % NUM_STYLES}" for index, label in enumerate(comparison.runs)}
    count = len(comparison.videos)
    return render(
        "comparison.html",
        title=title,
        subtitle=f"{len(comparison.runs)} runs on {count} video{'s' * (count != 1)}",
        loud=LOUD,
        clashes=[(label, line) for label, found in comparison.clashes.items() for line in found],
        figures=_figures(comparison),
        notes=comparison_notes(comparison),
        legend=[(style, label) for label, style in styles.items()],
        intervals=_intervals(comparison, styles),
        media=media,
        media_heading=media_heading,
        plots=_frame_plots(comparison, styles),
        plots_left_out=None,
        settings=_settings(comparison),
        skipped={
            f"{name} in {label}": why
            for label, run in comparison.runs.items()
            for name, why in run.skipped.items()
        },
        papers=[paper_part(table) for table in papers],
        paper_notes=PAPER_NOTES,
        protocol=protocol_part(_shared_protocol(next(iter(comparison.runs.values())).protocol)),
    )


def _figures(comparison: Comparison) -> PageTable:
    header, body = comparison_table(comparison)
    lines = []
    for cells in body:
        line = []
        for mean, bounds, difference in cells:
            verdict = difference.rpartition(" ")[2]
            below = ((bounds, ""), (difference, verdict if verdict in ("better", "worse") else ""))
            line.append(Cell(mean, tuple((text, kind) for text, kind in below if text)))
        lines.append(line)
    return PageTable(header, lines)


def _intervals(comparison: Comparison, styles: Mapping[str, str]) -> list[tuple[str, Markup]]:
    """(heading, SVG) for each figure that a run has."""
    plots = []
    for name, metric in comparison.metrics.items():
        bars = [
            Bar(label, styles[label], figures[name].mean, figures[name].interval)
            for label, figures in comparison.estimates.items()
        ]
        if any(np.isfinite(bar.mean) for bar in bars):
            title = f"{metric.heading} of each run"
            plots.append((metric.heading, interval_plot(bars, title=title, digits=metric.digits)))
    return plots


def _frame_plots(comparison: Comparison, styles: Mapping[str, str]) -> list[tuple[str, Markup]]:
    """For a single video, the figures of its frames; of more videos the tables and intervals tell."""
    if len(comparison.videos) != 1:
        return []
    video = comparison.videos[0]
    rows: dict[str, Row] = {}
    for label, run in comparison.runs.items():
        for row in run.rows:
            if row.video == video and row.method == GENERATED and row.failure is None:
                rows[label] = row
    plots = []
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
            plots.append((heading, plot))
    return plots


def _settings(comparison: Comparison) -> PageTable:
    """The settings in which the runs differ, and their protocols' fingerprints."""
    protocols = {label: run.protocol for label, run in comparison.runs.items()}
    names = dict.fromkeys(name for protocol in protocols.values() for name in protocol["settings"])
    lines = []
    for name in names:
        values = [protocol["settings"].get(name) for protocol in protocols.values()]
        if len({str(value) for value in values}) > 1:
            lines.append([Cell(name), *(Cell(_short(value)) for value in values)])
    fingerprints = (Cell(str(protocol["fingerprint"])) for protocol in protocols.values())
    lines.append([Cell("protocol"), *fingerprints])
    return PageTable(["Setting", *protocols], lines)


def _short(value: object) -> str:
    text = "–" if value is None else str(value)
    return "/".join(text.split("/")[-3:])


def _shared_protocol(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The first run's protocol without what is its own."""
    own = ("command", "commit", "missing_faces", "intervals")
    return {**{name: value for name, value in protocol.items() if name not in own}, "settings": {}}
