"""The report of one evaluation as an HTML page that needs nothing else."""

from collections.abc import Sequence

from markupsafe import Markup

from portraitgen.metrics.report.media import Media
from portraitgen.metrics.report.page_parts import PAPER_NOTES, Cell, PageTable, paper_part, protocol_part
from portraitgen.metrics.report.paper_tables import PaperTable
from portraitgen.metrics.report.plot import Line, line_plot
from portraitgen.metrics.report.render import render
from portraitgen.metrics.report.tables import (
    chance_notes,
    figure_table,
    graded,
    mark,
    missing_notes,
    shown_metrics,
)
from portraitgen.metrics.results import Results
from portraitgen.metrics.saved import protocol_json
from portraitgen.metrics.scores import GENERATED, METHODS, Row

PLOTTED = ("psnr", "landmark_error", "mouth_opening")
MAX_PLOTTED_VIDEOS = 8


def report_page(
    results: Results,
    *,
    title: str,
    media: Sequence[Media] = (),
    media_heading: str = "Pictures",
    papers: Sequence[PaperTable] = (),
) -> str:
    """The whole page as text.

    Args:
        results: what to report.
        title: heading of the page.
        media: files to embed, in their order.
        media_heading: what they are.
        papers: tables of papers to print beside the figures.

    Raises:
        OSError: a media file cannot be read.
    """
    by_video: dict[str, list[Row]] = {}
    for row in results.rows:
        if row.failure is None:
            by_video.setdefault(row.video, []).append(row)
    plotted = list(by_video.items())[:MAX_PLOTTED_VIDEOS]
    left_out = f"The first {len(plotted)} of {len(by_video)} videos."
    style = {True: "passed", False: "failed", None: "unknown"}
    return render(
        "report.html",
        title=title,
        subtitle=graded(results),
        verdicts=[
            (style[verdict.passed], mark(verdict.passed), verdict.text) for verdict in results.verdicts
        ],
        figures=_figures(results),
        notes=[
            *chance_notes(results),
            *missing_notes(results),
            f"Under each figure: {results.interval_statement}.",
        ],
        skipped=results.skipped,
        media=media,
        media_heading=media_heading,
        legend=[(method, METHODS[method].label) for method in results.estimates],
        plots=[plot for video, rows in plotted for plot in _plots(results, video, rows)],
        plots_left_out=left_out if len(plotted) < len(by_video) else None,
        videos=_videos(results) if len(results.videos) > 1 else None,
        papers=[paper_part(table) for table in papers],
        paper_notes=PAPER_NOTES,
        protocol=protocol_part(protocol_json(results)),
    )


def _figures(results: Results) -> PageTable:
    header, body = figure_table(results)
    lines = [
        [Cell(mean, tuple((part, "") for part in behind.split("; ") if part)) for mean, behind in cells]
        for cells in body
    ]
    return PageTable(header, lines)


def _videos(results: Results) -> PageTable:
    names = [name for name in shown_metrics(results) if results.metrics[name].level != "set"]
    lines = [
        [Cell(row.video), *(Cell(results.metrics[name].show(row.mean(name))) for name in names)]
        for row in results.rows
        if row.method == GENERATED
    ]
    return PageTable(["Generated video", *(results.metrics[name].heading for name in names)], lines)


def _plots(results: Results, video: str, rows: Sequence[Row]) -> list[tuple[str, Markup]]:
    """(heading, SVG) of each plot of a video."""
    plots = []
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
        plots.append((heading, plot))
    return plots
