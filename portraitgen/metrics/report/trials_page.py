"""The trials of a sweep by the figures that it looks at, as an HTML page that needs nothing else."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from portraitgen.metrics.front import pareto_front
from portraitgen.metrics.report.page_parts import Cell, PageTable
from portraitgen.metrics.report.plot import Bar, Spot, interval_plot, scatter_plot
from portraitgen.metrics.report.render import render
from portraitgen.metrics.scores import MetricInfo

Figure = tuple[float, float, float]
"""Mean, lower and upper bound; NaN where they are missing."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: what it is called, its state in a word, and its figures by name."""

    name: str
    state: str
    figures: Mapping[str, Figure]


def trials_page(trials: Sequence[Trial], metrics: Mapping[str, MetricInfo], *, title: str) -> str:
    """The whole page as text.

    Of one figure the best trial is marked, of two those that no other beats by both.

    Args:
        trials: in their order.
        metrics: the figures that the sweep looks at, one or two, each with a better side.
        title: heading of the page.
    """
    values = np.array([[trial.figures[name][0] for name in metrics] for trial in trials], np.float64)
    front = pareto_front(values, [bool(metric.higher_is_better) for metric in metrics.values()])
    styles = ["best" if on_front else "truth" for on_front in front]
    said = "on the front" if len(metrics) > 1 else "the best"
    plots = []
    for name, metric in metrics.items():
        bars = [
            Bar(trial.name, style, trial.figures[name][0], trial.figures[name][1:])
            for trial, style in zip(trials, styles, strict=True)
        ]
        if any(math.isfinite(bar.mean) for bar in bars):
            plot = interval_plot(bars, title=f"{metric.heading} of each trial", digits=metric.digits)
            plots.append((metric.heading, plot))
    scatter = None
    if len(metrics) == 2 and np.isfinite(values).all(axis=1).any():
        (_, across), (_, up) = metrics.items()
        spots = [
            Spot(trial.name, style, *pair)
            for trial, style, pair in zip(trials, styles, values.tolist(), strict=True)
        ]
        scatter = scatter_plot(
            spots,
            title=f"{across.heading} and {up.heading} of each trial",
            x_label=across.heading,
            y_label=up.heading,
            digits=(across.digits, up.digits),
        )
    count, labels = len(trials), " and ".join(metric.label for metric in metrics.values())
    return render(
        "trials.html",
        title=title,
        subtitle=f"{count} trial{'s' * (count != 1)} by {labels}",
        figures=_figures(trials, metrics, front, said),
        notes=_notes(len(metrics)),
        legend=[("best", said.capitalize()), ("truth", "Other trials")],
        scatter=scatter,
        intervals=plots,
        media=[],
        plots=[],
        papers=[],
    )


def _figures(
    trials: Sequence[Trial], metrics: Mapping[str, MetricInfo], front: np.ndarray, said: str
) -> PageTable:
    lines = []
    for trial, on_front in zip(trials, front, strict=True):
        cells = [Cell(trial.name)]
        for name, metric in metrics.items():
            mean, low, high = trial.figures[name]
            bounds = [(f"{metric.show(low)} to {metric.show(high)}", "")] if math.isfinite(low) else []
            cells.append(Cell(metric.show(mean), tuple(bounds)))
        lines.append([*cells, Cell(trial.state, ((said, "better"),) if on_front else ())])
    return PageTable(["Trial", *(metric.heading for metric in metrics.values()), "State"], lines)


def _notes(count: int) -> list[str]:
    if count == 1:
        return ["The last value of each trial."]
    return [
        "The last values of each trial. On the front are those to which no other is at least equal by both "
        "figures and better by one."
    ]
