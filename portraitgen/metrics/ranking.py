"""Which videos a report shows: the best and worst of a run, or those in which runs differ most."""

import math
from collections.abc import Mapping

import numpy as np

from portraitgen.metrics.comparison import Comparison
from portraitgen.metrics.results import Results
from portraitgen.metrics.scores import GENERATED, MetricInfo


def best_and_worst(results: Results, *, by: str | None, count: int) -> tuple[str, list[tuple[str, str]]]:
    """The videos to show of a run, from the best to the worst.

    Args:
        results: of the run.
        by: name of a figure; None takes the first that has a better side and a value for each video.
        count: videos at most, half of them the best ones, half the worst; all when there are no more.

    Returns:
        The figure's name, and (video, what to say of it) each.

    Raises:
        ValueError: no such figure, or one without a value for each video.
    """
    name = _choose(results.metrics, by, directed=True)
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


def most_different(comparison: Comparison, *, by: str | None, count: int) -> tuple[str, list[str]]:
    """The figure's name, and the videos whose values are farthest apart between runs, farthest first.

    Raises:
        ValueError: no such figure, or one without a value for each video.
    """
    name = _choose(comparison.metrics, by, directed=False)
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


def _choose(metrics: Mapping[str, MetricInfo], by: str | None, *, directed: bool) -> str:
    fit = [
        name
        for name, metric in metrics.items()
        if metric.level != "set" and (metric.higher_is_better is not None or not directed)
    ]
    if by is None and fit:
        return fit[0]
    if by is None or by not in fit:
        raise ValueError(f"show_by={by}: no video has such a figure; known are {', '.join(fit) or 'none'}")
    return by
