"""Results as tables: CSV for programs, Markdown and a table in the terminal for people."""

import csv
import io
import math

from rich.box import SIMPLE_HEAD
from rich.table import Table

from portraitgen.metrics.results import Results
from portraitgen.metrics.scores import GENERATED, METHODS

MAX_REASONS = 3
"""Videos named in a sentence about missing figures; results.json names all."""


def rows_csv(results: Results) -> str:
    """One line for each video and method; a missing figure is an empty cell, its reason the last column."""
    names = [name for name, metric in results.metrics.items() if metric.level != "set"]
    table = [["video", "method", "num_frames", *names, "missing"]]
    for row in results.rows:
        reasons = row.failure or "; ".join(dict.fromkeys(row.reasons.values()))
        means = [_cell(row.mean(name)) for name in names]
        table.append([row.video, row.method, str(len(row.frames)), *means, reasons])
    return _csv(table)


def frames_csv(results: Results) -> str:
    """One line for each frame of each video and method: what the plots show."""
    names = [name for name, metric in results.metrics.items() if metric.level == "frame"]
    table = [["video", "method", "frame", *names]]
    for row in results.rows:
        for place, frame in enumerate(row.frames):
            values = [_cell(row.scores[name][place]) if name in row.scores else "" for name in names]
            table.append([row.video, row.method, str(frame), *values])
    return _csv(table)


def results_markdown(results: Results, *, title: str) -> str:
    """Table, verdicts and protocol in Markdown."""
    header, body = figure_table(results)
    lines = [f"# {title}", "", _markdown_row(header), _markdown_row(["---"] + ["---:"] * (len(header) - 1))]
    lines += [
        _markdown_row([f"{mean} ({bounds})" if bounds else mean for mean, bounds in cells]) for cells in body
    ]
    lines += ["", *[f"- {mark(verdict.passed)}: {verdict.text}" for verdict in results.verdicts]]
    lines += ["", *[f"- {note}" for note in missing_notes(results)]]
    lines += ["", f"{graded(results)}. Intervals: {results.interval_statement}."]
    return "\n".join(lines) + "\n"


def terminal_table(results: Results, *, title: str) -> Table:
    """The same table for a terminal: `rich.console.Console().print(table)`."""
    header, body = figure_table(results)
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, collapse_padding=True
    )
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right")
    for method, cells in zip(results.estimates, body, strict=True):
        shown = [f"{mean}\n[dim]{bounds}[/dim]" if bounds else mean for mean, bounds in cells]
        table.add_row(*shown, style="bold" if method == GENERATED else None)
    return table


def figure_table(results: Results) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Header, then one line for each method: name and figures, each as (mean, bounds), a dash for none."""
    names = shown_metrics(results)
    header = ["Method", *[results.metrics[name].heading for name in names]]
    body = []
    for method, figures in results.estimates.items():
        cells = [(METHODS[method].label, "")]
        for name in names:
            figure, metric = figures.get(name), results.metrics[name]
            if figure is None:
                cells.append(("–", ""))
                continue
            low, high = figure.interval
            bounds = "" if math.isnan(low) else f"{metric.show(low)}–{metric.show(high)}"
            cells.append((metric.show(figure.mean), bounds))
        body.append(cells)
    return header, body


def shown_metrics(results: Results) -> list[str]:
    """The figures that at least one method has, in the order of every table."""
    return [
        name for name in results.metrics if any(name in figures for figures in results.estimates.values())
    ]


def missing_notes(results: Results) -> list[str]:
    """One sentence for each reason why figures are missing, and for each skipped grader."""
    notes: dict[tuple[int, int, str, tuple[str, ...]], list[str]] = {}
    for method, figures in results.estimates.items():
        for name, figure in figures.items():
            if figure.num_missing or figure.reasons:
                total = figure.num_present + figure.num_missing
                key = (figure.num_present, total, figure.units, figure.reasons)
                notes.setdefault(key, []).append(f"{results.metrics[name].label} ({METHODS[method].label})")
    return [
        *(
            f"Mean over {present} of {total} {units}: {', '.join(names)}. {_first_reasons(reasons)}."
            for (present, total, units, reasons), names in notes.items()
        ),
        *(f"Skipped: {name}. {why}." for name, why in results.skipped.items()),
    ]


def graded(results: Results) -> str:
    """What was graded, in one line."""
    protocol = results.protocol
    counts = {"video": len(results.videos), "frame": results.num_frames}
    videos, frames = (f"{count} {thing}{'s' * (count != 1)}" for thing, count in counts.items())
    sizes = {f"{facts.width}×{facts.height}" for facts in protocol.videos if facts.num_frames}
    size = f"{sizes.pop()} pixels" if len(sizes) == 1 else f"{len(sizes)} sizes"
    rates = {f"{facts.fps:g} fps" for facts in protocol.videos if facts.fps}
    rate = f" at {rates.pop()}" if len(rates) == 1 else f" at {len(rates)} rates" if rates else ""
    return f"{videos}, {frames} of {size}{rate}, faces by {protocol.face_backend}, commit {protocol.commit}"


def mark(passed: bool | None) -> str:
    """A verdict in a word."""
    return {True: "passed", False: "failed", None: "no figure"}[passed]


def _first_reasons(reasons: tuple[str, ...]) -> str:
    more = len(reasons) - MAX_REASONS
    return "; ".join(reasons[:MAX_REASONS]) + (f"; and {more} more videos" if more > 0 else "")


def _cell(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


def _csv(table: list[list[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(table)
    return buffer.getvalue()


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
