"""How the figures of a run went while it trained, as an HTML page that needs nothing else."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from portraitgen.metrics.report.media import Media
from portraitgen.metrics.report.page_parts import Cell, PageTable, protocol_part
from portraitgen.metrics.report.plot import Line, line_plot
from portraitgen.metrics.report.render import render
from portraitgen.metrics.saved import SavedResults
from portraitgen.metrics.scores import GENERATED, METHODS, MetricInfo

_MISSING = (math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class History:
    """The graded rounds of a run.

    Attributes:
        rounds: step -> results, in the order of the steps; of one protocol.
        chosen: label -> step of the weights that are put beside each other: the best ones, and the last.
        cost: what grading took, in words; None: nobody knows.
    """

    rounds: Mapping[int, SavedResults]
    chosen: Mapping[str, int]
    cost: str | None = None

    @property
    def metrics(self) -> Mapping[str, MetricInfo]:
        """The figures that a round has, as the last one states them."""
        return self.rounds[max(self.rounds)].metrics


def history_page(
    history: History,
    *,
    title: str,
    media: Sequence[Media] = (),
    notes: Sequence[str] = (),
) -> str:
    """The whole page as text.

    Args:
        history: the rounds.
        title: heading of the page.
        media: files to embed, in their order.
        notes: more that is to be said of the figures.

    Raises:
        OSError: a media file cannot be read.
    """
    last = history.rounds[max(history.rounds)]
    methods = [method for method in METHODS if last.figures.get(method)]
    count, videos = len(history.rounds), last.protocol["num_videos"]
    return render(
        "history.html",
        title=title,
        subtitle=f"{count} round{'s' * (count != 1)} on {videos} video{'s' * (videos != 1)}, "
        f"steps {min(history.rounds)} to {max(history.rounds)}",
        verdicts=_verdicts(last),
        figures=_figures(history, methods),
        notes=[
            "Of the weights of these steps; under each figure its interval, and which control is better.",
            f"Intervals: {last.protocol['intervals']}.",
            *([history.cost] if history.cost else []),
            *notes,
        ],
        skipped=last.skipped,
        media=media,
        media_heading="The best weights and the last, side by side",
        curves=[*_curves(history, methods)],
        legend=[*((method, METHODS[method].label) for method in methods), ("best", "Best weights")],
        plots=[],
        papers=[],
        protocol=protocol_part(last.protocol),
    )


def _verdicts(last: SavedResults) -> list[tuple[str, str, str]]:
    """What of the last round is behind a control."""
    return [("failed", "behind", text) for found in last.behind.values() for text in found.values()]


def _figures(history: History, methods: Sequence[str]) -> PageTable:
    last = history.rounds[max(history.rounds)]
    others = [method for method in methods if method != GENERATED]
    columns = [f"{label}, step {step}" for label, step in history.chosen.items()]
    lines = []
    for name, metric in history.metrics.items():
        cells = [Cell(metric.heading)]
        for step in history.chosen.values():
            results = history.rounds[step]
            mean, low, high = results.figures[GENERATED].get(name, _MISSING)
            below = [(f"{metric.show(low)} to {metric.show(high)}", "")] if math.isfinite(low) else []
            controls = results.behind.get(name, {})
            below += [(f"behind {METHODS[control].label.lower()}", "worse") for control in controls]
            cells.append(Cell(metric.show(mean), tuple(below)))
        shown = (last.figures[method].get(name, _MISSING)[0] for method in others)
        lines.append([*cells, *(Cell(metric.show(mean)) for mean in shown)])
    return PageTable(["Figure", *columns, *(METHODS[method].label for method in others)], lines)


def _curves(history: History, methods: Sequence[str]) -> list[tuple[str, Markup]]:
    """(heading, SVG) of each figure that some round has."""
    steps = [*history.rounds]
    curves = []
    for name, metric in history.metrics.items():
        lines = []
        for method in reversed(methods):  # the generated clips lie on top
            found = [each.figures.get(method, {}).get(name, _MISSING) for each in history.rounds.values()]
            values = np.array(found, np.float64)
            if np.isfinite(values[:, 0]).any():
                bounds = values[:, 1:] if method == GENERATED else None
                lines.append(Line(METHODS[method].label, method, values[:, 0], bounds))
        if not lines or lines[-1].style != GENERATED:
            continue
        best = [step for label, step in history.chosen.items() if label == f"best {metric.label}"]
        marked = np.array(
            [value if step in best else math.nan for step, value in zip(steps, lines[-1].values, strict=True)]
        )
        if np.isfinite(marked).any():
            lines.append(Line("best weights", "best", marked))
        heading = f"{metric.heading} over the training"
        plot = line_plot(
            steps,
            lines,
            title=f"{heading}: one line for each method over the steps",
            x_label="step",
            y_label=metric.label + (f" ({metric.unit.strip()})" if metric.unit else ""),
            digits=metric.digits,
        )
        curves.append((metric.heading, plot))
    return curves
