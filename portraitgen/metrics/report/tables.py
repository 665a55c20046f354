"""Results as tables: CSV for programs, Markdown and a table in the terminal for people."""

import html
import math
import re
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from portraitgen.metrics.csv_text import csv_lines
from portraitgen.metrics.estimate import Estimate
from portraitgen.metrics.results import Results
from portraitgen.metrics.scores import METHODS, MetricInfo

MAX_REASONS = 3
"""Videos named in a sentence about missing figures; results.json names all."""


def rows_csv(results: Results) -> str:
    """One line for each video and method; a missing figure is an empty cell, its reason the last column."""
    names = [name for name, metric in results.metrics.items() if metric.level != "set"]
    table: list[list[str | float]] = [["video", "method", "num_frames", *names, "missing"]]
    for row in results.rows:
        reasons = row.failure or "; ".join(dict.fromkeys(row.reasons.values()))
        means = [row.mean(name) for name in names]
        table.append([row.video, row.method, len(row.frames), *means, reasons])
    return csv_lines(table)


def frames_csv(results: Results) -> str:
    """One line for each frame of each video and method: what the plots show."""
    names = [name for name, metric in results.metrics.items() if metric.level == "frame"]
    table: list[list[str | float]] = [["video", "method", "frame", *names]]
    for row in results.rows:
        for place, frame in enumerate(row.frames):
            values = [row.scores[name][place] if name in row.scores else math.nan for name in names]
            table.append([row.video, row.method, int(frame), *values])
    return csv_lines(table)


def results_markdown(results: Results, *, title: str) -> str:
    """Table, verdicts and protocol in Markdown."""
    header, body = figure_table(results)
    lines = [f"# {markdown_text(title)}", "", *markdown_table(header, body), ""]
    lines += [f"- {mark(verdict.passed)}: {markdown_text(verdict.text)}" for verdict in results.verdicts]
    notes = [*chance_notes(results), *missing_notes(results)]
    notes += [*(f"Skipped: {name}. {why}." for name, why in results.skipped.items())]
    lines += ["", *[f"- {markdown_text(note)}" for note in notes]]
    lines += ["", markdown_text(f"{graded(results)}. Intervals: {results.interval_statement}.")]
    return "\n".join(lines) + "\n"


def markdown_table(header: Sequence[str], body: Iterable[Sequence[tuple[str, str]]]) -> list[str]:
    """Lines of a table of cells (text, what stands behind it in brackets)."""
    lines = [_markdown_row(header), _markdown_row(["---"] + ["---:"] * (len(header) - 1))]
    return lines + [
        _markdown_row([f"{text} ({behind})" if behind else text for text, behind in cells]) for cells in body
    ]


def terminal_table(
    header: Sequence[str], body: Iterable[Sequence[tuple[str, str]]], *, title: str, bold: int | None = None
) -> Table:
    """A table of cells (text, what stands below it) for a terminal: `rich.console.Console().print(table)`.

    Args:
        bold: index of a column to emphasise.
    """
    table = Table(
        title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, collapse_padding=True
    )
    for index, name in enumerate(header):
        style = "bold" if index == bold else None
        table.add_column(Text(name), justify="right" if index else "left", style=style, header_style=style)
    for cells in body:
        table.add_row(*[Text(text).append(_below(below), "dim") for text, below in cells])
    return table


def figure_table(results: Results) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Header, then a line for each figure: its name and, for each method, (mean, bounds and how many videos).

    The number of videos is said where it is not all of them.
    """
    header = ["Figure", *[METHODS[method].label for method in results.estimates]]
    body = []
    for name in shown_metrics(results):
        metric = results.metrics[name]
        cells = [(metric.heading, "")]
        for method, figures in results.estimates.items():
            mean, bounds = figure_cell(figures.get(name), metric)
            cells.append((mean, "; ".join(filter(None, (bounds, _over(results, method, name))))))
        body.append(cells)
    return header, body


def figure_cell(figure: Estimate | None, metric: MetricInfo) -> tuple[str, str]:
    """(mean, bounds) of a figure as text; of a set how many samples it is of, and what chance alone makes."""
    if figure is None:
        return "–", ""
    if metric.level == "set" and math.isfinite(figure.mean):
        by_chance = "" if figure.bias is None else f"; {metric.show(figure.bias)} by chance"
        return metric.show(figure.mean), f"of {figure.num_present} samples{by_chance}"
    low, high = figure.interval
    return metric.show(figure.mean), "" if math.isnan(low) else f"{metric.show(low)} to {metric.show(high)}"


def shown_metrics(results: Results) -> list[str]:
    """The figures that at least one method has, in the order of every table."""
    return [
        name for name in results.metrics if any(name in figures for figures in results.estimates.values())
    ]


def chance_notes(results: Results) -> list[str]:
    """What "by chance" means, where a figure of a set has such a bias."""
    biased = dict.fromkeys(
        results.metrics[name].label
        for figures in results.estimates.values()
        for name, figure in figures.items()
        if figure.bias is not None and math.isfinite(figure.mean)
    )
    if not biased:
        return []
    return [
        f"{', '.join(biased)}: by chance is what two samples of one distribution would be apart, or more, "
        "only because they are so few. Compare figures of one number of samples."
    ]


def missing_notes(results: Results) -> list[str]:
    """One sentence for each reason why figures are missing."""
    notes: dict[tuple[int, int, str, tuple[str, ...]], list[str]] = {}
    for method, figures in results.estimates.items():
        for name, figure in figures.items():
            if figure.num_missing or figure.reasons:
                total = figure.num_present + figure.num_missing
                key = (figure.num_present, total, figure.units, figure.reasons)
                notes.setdefault(key, []).append(f"{results.metrics[name].label} ({METHODS[method].label})")
    return [
        f"Mean over {present} of {total} {units}: {', '.join(names)}. {_first_reasons(reasons)}."
        for (present, total, units, reasons), names in notes.items()
    ]


def graded(results: Results) -> str:
    """What was graded, in one line."""
    protocol = results.protocol
    counts = {"video": len(results.videos), "frame": results.num_frames}
    videos, frames = (f"{count} {thing}{'s' * (count != 1)}" for thing, count in counts.items())
    sizes = {f"{facts.width}×{facts.height}" for facts in protocol.videos if facts.width}
    size = f" of {sizes.pop()} pixels" if len(sizes) == 1 else f" of {len(sizes)} sizes" if sizes else ""
    rates = {f"{facts.fps:g} fps" for facts in protocol.videos if facts.fps}
    rate = f" at {rates.pop()}" if len(rates) == 1 else f" at {len(rates)} rates" if rates else ""
    return f"{videos}, {frames}{size}{rate}, faces by {protocol.face_backend}, commit {protocol.commit}"


def mark(passed: bool | None) -> str:
    """A verdict in a word."""
    return {True: "passed", False: "failed", None: "no figure"}[passed]


def _first_reasons(reasons: tuple[str, ...]) -> str:
    more = len(reasons) - MAX_REASONS
    return "; ".join(reasons[:MAX_REASONS]) + (f"; and {more} more videos" if more > 0 else "")


def markdown_text(text: str) -> str:
    """Text on one line of a Markdown file: no HTML, link, picture, code or cell of a table comes of it."""
    return re.sub(r"([\\`|]|\](?=[(\[:]))", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _below(behind: str) -> str:
    return f"\n{behind}".replace("; ", "\n") if behind else ""


def _over(results: Results, method: str, name: str) -> str:
    """How many videos a mean is over, where some of them lack the figure."""
    rows = [row for row in results.rows if row.method == method]
    have = sum(math.isfinite(row.mean(name)) for row in rows)
    if results.metrics[name].level == "set" or name not in results.estimates[method] or have == len(rows):
        return ""
    return f"over {have} of {len(rows)} videos"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_text, cells)) + " |"
