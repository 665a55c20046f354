"""Results for programs (JSON, CSV) and for people (Markdown, a table in the terminal)."""

import csv
import io
import math
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from portraitgen.metrics.results import Results
from portraitgen.metrics.scores import GENERATED, METHODS

MAX_REASONS = 3
"""Videos named in a sentence about missing figures; results.json names all."""


def results_json(results: Results) -> dict[str, Any]:
    """Results as JSON takes them: `psnr` of the generated clips, `psnr_copy_reference` and so on.

    A missing figure is null and stands under `missing` with its reason.
    """
    figures = {
        _key(metric, method): figure
        for method, of_method in results.estimates.items()
        for metric, figure in of_method.items()
    }
    return {
        **{key: _finite(figure.mean) for key, figure in figures.items()},
        "intervals": {key: [_finite(bound) for bound in figure.interval] for key, figure in figures.items()},
        "missing": {
            key: {
                figure.units: figure.num_missing,
                "of": figure.num_present + figure.num_missing,
                "reasons": list(figure.reasons),
            }
            for key, figure in figures.items()
            if figure.num_missing or figure.reasons
        },
        "skipped": dict(results.skipped),
        "passed": results.passed,
        "checks": [
            {"passed": verdict.passed, "required": verdict.check.required, "text": verdict.text}
            for verdict in results.verdicts
        ],
        "protocol": protocol_json(results),
        "rows": [
            {
                "video": row.video,
                "method": row.method,
                "num_frames": len(row.frames),
                **{name: _finite(row.mean(name)) for name in results.metrics if name in row.scores},
                **({"failure": row.failure} if row.failure is not None else {}),
                **({"reasons": dict(row.reasons)} if row.reasons else {}),
            }
            for row in results.rows
        ],
    }


def protocol_json(results: Results) -> dict[str, Any]:
    """What somebody else needs to take the same figures again, and to know which may be compared."""
    protocol = results.protocol
    return {
        "num_videos": len(results.videos),
        "num_frames": results.num_frames,
        "fps": protocol.fps,
        "resolution": list(protocol.resolution),
        "face_backend": protocol.backend,
        "min_face_score": protocol.min_face_score,
        "intervals": results.interval_statement,
        "metrics": {name: metric.definition for name, metric in results.metrics.items()},
        "graders": {name: dict(facts) for name, facts in protocol.graders.items()},
        "commit": protocol.commit,
        "versions": dict(protocol.versions),
        "settings": dict(protocol.settings),
    }


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
    width, height = protocol.resolution
    counts = {"video": len(results.videos), "frame": results.num_frames}
    videos, frames = (f"{count} {thing}{'s' * (count != 1)}" for thing, count in counts.items())
    return (
        f"{videos}, {frames} of {width}×{height} pixels at {protocol.fps:g} fps, "
        f"faces by {protocol.backend}, commit {protocol.commit}"
    )


def mark(passed: bool | None) -> str:
    """A verdict in a word."""
    return {True: "passed", False: "failed", None: "no figure"}[passed]


def _first_reasons(reasons: tuple[str, ...]) -> str:
    more = len(reasons) - MAX_REASONS
    return "; ".join(reasons[:MAX_REASONS]) + (f"; and {more} more videos" if more > 0 else "")


def _key(metric: str, method: str) -> str:
    return metric if method == GENERATED else f"{metric}_{method}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cell(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""


def _csv(table: list[list[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(table)
    return buffer.getvalue()


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
