"""A comparison as tables: JSON and CSV for programs, Markdown and a table in the terminal for people."""

import math
from typing import Any

from portraitgen.metrics.comparison import Comparison, Difference
from portraitgen.metrics.csv_text import csv_lines
from portraitgen.metrics.report.tables import figure_cell, markdown_table, markdown_text
from portraitgen.metrics.saved import finite
from portraitgen.metrics.scores import GENERATED, MetricInfo

LOUD = "These results were taken by different protocols. Their figures do not compare"


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """All of a comparison as JSON takes it; a missing figure is null."""
    first = next(iter(comparison.runs))
    return {
        "runs": {
            label: {
                "results": str(run.path),
                "fingerprint": run.protocol["fingerprint"],
                "commit": run.protocol["commit"],
                "settings": run.protocol["settings"],
                "figures": {
                    name: {
                        "mean": finite(figure.mean),
                        "interval": [finite(bound) for bound in figure.interval],
                    }
                    for name, figure in comparison.estimates[label].items()
                },
            }
            for label, run in comparison.runs.items()
        },
        "differences_from": first,
        "differences": {
            label: {
                name: {
                    "mean": finite(difference.mean),
                    "interval": [*map(finite, difference.interval)],
                    "verdict": difference.verdict,
                }
                for name, difference in of_run.items()
            }
            for label, of_run in comparison.differences.items()
        },
        "videos": list(comparison.videos),
        "left_out": list(comparison.left_out),
        "protocols_differ": {label: list(found) for label, found in comparison.clashes.items()},
        "intervals": comparison.interval_statement,
    }


def comparison_csv(comparison: Comparison) -> str:
    """One line for each run and figure."""
    columns = ("mean", "low", "high", "difference", "difference_low", "difference_high", "verdict")
    table: list[list[str | float]] = [["run", "metric", *columns]]
    for label, figures in comparison.estimates.items():
        for name, figure in figures.items():
            difference = comparison.differences.get(label, {}).get(name)
            behind = [math.nan] * 3 if difference is None else [difference.mean, *difference.interval]
            verdict = "" if difference is None else difference.verdict or ""
            table.append([label, name, figure.mean, *figure.interval, *behind, verdict])
    return csv_lines(table)


def comparison_markdown(comparison: Comparison, *, title: str) -> str:
    """The table in Markdown, with the protocol's differences on top where they were allowed."""
    header, body = comparison_table(comparison)
    lines = [f"# {markdown_text(title)}", ""]
    if comparison.clashes:
        lines += [f"**{LOUD}:**", ""]
        clashes = [f"{label}: {line}" for label, found in comparison.clashes.items() for line in found]
        lines += [*(f"- {markdown_text(clash)}" for clash in clashes), ""]
    flat = [[(mean, "; ".join(filter(None, rest))) for mean, *rest in line] for line in body]
    lines += markdown_table(header, flat)
    lines += ["", *[f"- {markdown_text(note)}" for note in comparison_notes(comparison)]]
    return "\n".join(lines) + "\n"


def comparison_table(comparison: Comparison) -> tuple[list[str], list[list[tuple[str, str, str]]]]:
    """Header, then a line for each figure: its name and, for each run, (mean, bounds, difference)."""
    header = ["Figure", *comparison.runs]
    body = []
    for name, metric in comparison.metrics.items():
        cells = [(metric.heading, "", "")]
        for label, figures in comparison.estimates.items():
            difference = comparison.differences.get(label, {}).get(name)
            said = "" if difference is None else say_difference(difference, metric)
            cells.append((*figure_cell(figures[name], metric), said))
        body.append(cells)
    return header, body


def say_difference(difference: Difference, metric: MetricInfo) -> str:
    """A difference with its interval and what it comes to."""
    mean = metric.show(difference.mean)
    if mean == "–":
        return ""
    said = f"{'+' if difference.mean >= 0 else ''}{mean}"
    low, high = (metric.show(bound) for bound in difference.interval)
    if low != "–":
        said += f" [{low}, {high}]"
    return f"{said} {difference.verdict}" if difference.verdict else said


def comparison_notes(comparison: Comparison) -> list[str]:
    """What a reader needs to know of the table."""
    first = next(iter(comparison.runs))
    count = len(comparison.videos)
    notes = [
        f"Over the {count} video{'s' * (count != 1)} that all runs have. With an interval: "
        f"{comparison.interval_statement}.",
        f"Differences are from {first}, resampled in pairs. Better or worse: their interval leaves no doubt "
        "about the side; open: it does.",
    ]
    if comparison.left_out:
        notes.append(f"Not compared, as only some runs have it: {', '.join(comparison.left_out)}.")
    for name, metric in comparison.metrics.items():
        sizes = {label: figures[name].num_present for label, figures in comparison.estimates.items()}
        if metric.level == "set" and len(set(sizes.values())) > 1:
            counts = ", ".join(f"{size} in {label}" for label, size in sizes.items())
            notes.append(
                f"{metric.label} is of sets of different sizes and does not compare: {counts} samples. "
                "It grows as they get fewer."
            )
    for label, run in comparison.runs.items():
        notes += [
            f"{label} has no clip of {row.video}: {row.failure}."
            for row in run.rows
            if row.method == GENERATED and row.failure is not None and row.video in comparison.videos
        ]
    commits = {run.protocol["commit"] for run in comparison.runs.values()}
    if len(commits) > 1:
        notes.append(f"Graded at different commits: {', '.join(sorted(commits))}.")
    return notes
