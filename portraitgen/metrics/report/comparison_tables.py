"""A comparison as tables: JSON and CSV for programs, Markdown and a table in the terminal for people."""

import math
from typing import Any

import numpy as np

from portraitgen.metrics.comparison import TOO_FEW, Comparison, Difference
from portraitgen.metrics.csv_text import csv_lines
from portraitgen.metrics.estimate import Estimate
from portraitgen.metrics.paired import LEVEL
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
                        figure.units: figure.num_present,
                        "of": figure.num_present + figure.num_missing,
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
                    comparison.units: difference.num_units,
                    "p_value": finite(difference.p_value),
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
    columns = (
        *("mean", "low", "high", "number"),
        *("difference", "difference_low", "difference_high", "common_number", "p_value", "verdict"),
    )
    table: list[list[str | float]] = [["run", "metric", *columns]]
    for label, figures in comparison.estimates.items():
        for name, figure in figures.items():
            difference = comparison.differences.get(label, {}).get(name)
            behind: list[float] = [math.nan] * 5
            if difference is not None:
                behind = [
                    difference.mean,
                    *difference.interval,
                    difference.num_units or math.nan,
                    difference.p_value,
                ]
            verdict = "" if difference is None else difference.verdict or ""
            number = num_units(figure)
            table.append([label, name, figure.mean, *figure.interval, number, *behind, verdict])
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
    """Header, then a line for each figure: its name and, for each run, (mean, bounds; how many, difference).

    How many videos a mean is over is said where it is not all of them.
    """
    header = ["Figure", *comparison.runs]
    body = []
    for name, metric in comparison.metrics.items():
        cells = [(metric.heading, "", "")]
        for label, figures in comparison.estimates.items():
            difference = comparison.differences.get(label, {}).get(name)
            said = "" if difference is None else say_difference(difference, metric, comparison.units)
            mean, bounds = figure_cell(figures[name], metric)
            count, total = num_units(figures[name]), len(figures[name].values)
            over = f"over {count} of {total} {comparison.units}" if 0 < count < total else ""
            cells.append((mean, "; ".join(filter(None, (bounds, over))), said))
        body.append(cells)
    return header, body


def num_units(figure: Estimate) -> int:
    """Videos (frames of the only one, samples of a set) that a mean is over."""
    return int(np.isfinite(figure.values).sum()) if len(figure.values) else figure.num_present


def say_difference(difference: Difference, metric: MetricInfo, units: str) -> str:
    """A difference with its interval, what it comes to, and over how many `units`."""
    mean = metric.show(difference.mean)
    if mean == "–":
        return "" if metric.level == "set" else f"none of the {units} has it in both"
    said = f"{'+' if difference.mean >= 0 else ''}{mean}"
    low, high = (metric.show(bound) for bound in difference.interval)
    if low != "–":
        said += f" [{low}, {high}]"
    said = f"{said} {difference.verdict}" if difference.verdict else said
    if metric.level == "set":
        return said
    one = units.removesuffix("s")
    return f"{said}, {difference.num_units} {one if difference.num_units == 1 else units}"


def _said_of_differences(comparison: Comparison, first: str) -> str:
    common = f"Differences are from {first}, over the {comparison.units} that have the figure in both"
    if comparison.units == "frames":
        return f"{common}. {TOO_FEW.capitalize()}: frames of one video say nothing about other videos."
    tests = sum(
        not math.isnan(difference.p_value) and difference.verdict is not None
        for of_run in comparison.differences.values()
        for difference in of_run.values()
    )
    return (
        f"{common}, with {1 - LEVEL:.0%} intervals from 6 videos on (Hartigan's typical values). Better or "
        f"worse: a two-sided sign-flip test refuses at {LEVEL:.0%} that the runs are equal, corrected for "
        f"{tests} test{'s' * (tests != 1)} (Holm); open: it does not; {TOO_FEW}: of so few it never could."
    )


def comparison_notes(comparison: Comparison) -> list[str]:
    """What a reader needs to know of the table."""
    first = next(iter(comparison.runs))
    count = len(comparison.videos)
    notes = [
        f"{count} video{'s' * (count != 1)}. Under each mean: {comparison.interval_statement}.",
        _said_of_differences(comparison, first),
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
