"""Which videos a report shows: the best and worst of a run, or those in which runs differ most."""

import math
from collections.abc import Mapping

import numpy as np

from portraitgen.metrics.comparison import FAILED, Comparison
from portraitgen.metrics.results import Results
from portraitgen.metrics.scores import GENERATED, MetricInfo


def best_and_worst(
    results: Results, *, by: str | None, count: int
) -> tuple[str | None, list[tuple[str, str]]]:
    """The videos to show of a run, from the best to the worst.

    Args:
        results: of the run.
        by: name of a figure; None takes the first that has a better side and a value for each video.
        count: videos at most, half of them the best ones, half the worst; all when there are no more.

    Returns:
        The figure's name, and (video, what to say of it) each. Where all figures are of sets or have no
        better side: None, and the first videos.

    Raises:
        ValueError: as `choose_figure`.
    """
    name = choose_figure(results.metrics, by, directed=True)
    if name is None:
        return None, [(video, video) for video in results.videos[:count]]
    metric = results.metrics[name]
    values = {row.video: row.mean(name) for row in results.rows if row.method == GENERATED}
    sign = -1 if metric.higher_is_better else 1
    ranked = sorted(
        (video for video in values if math.isfinite(values[video])), key=lambda v: sign * values[v]
    )
    said = {video: f"{metric.label} {metric.show(values[video], unit=True)}" for video in ranked}
    if len(ranked) <= count:
        return name, [(video, said[video]) for video in ranked]
    best = (count + 1) // 2
    shown = [(video, f"best {place}: {said[video]}") for place, video in enumerate(ranked[:best], 1)]
    worst = ranked[len(ranked) - (count - best) :]
    return name, shown + [
        (video, f"worst {len(worst) - place}: {said[video]}") for place, video in enumerate(worst)
    ]


def most_different(comparison: Comparison, *, by: str | None, count: int) -> tuple[str | None, list[str]]:
    """The figure's name, and the videos whose values are farthest apart between runs, farthest first.

    Where all figures are of sets: None, and the first videos.

    Raises:
        ValueError: as `choose_figure`.
    """
    graded = {name: metric for name, metric in comparison.metrics.items() if name != FAILED}
    name = choose_figure(graded, by, directed=False)
    if name is None:
        return None, list(comparison.videos[:count])
    spread = {}
    for video in comparison.videos:
        values = [
            row.mean(name)
            for run in comparison.runs.values()
            for row in run.rows
            if row.video == video and row.method == GENERATED
        ]
        spread[video] = np.ptp(values) if np.isfinite(values).all() else -1.0
    return name, sorted(spread, key=lambda video: (-spread[video], video))[:count]


def choose_figure(metrics: Mapping[str, MetricInfo], by: str | None, *, directed: bool) -> str | None:
    """The figure `by` which videos are ranked; None takes the first that fits, if one does.

    Args:
        directed: it must have a better side.

    Raises:
        ValueError: there is no such figure that each video has.
    """
    fit = [
        name
        for name, metric in metrics.items()
        if metric.level != "set" and (metric.higher_is_better is not None or not directed)
    ]
    if by is not None and by not in fit:
        raise ValueError(f"show_by={by}: no video has such a figure; known are {', '.join(fit) or 'none'}")
    return by or next(iter(fit), None)
