"""Demands on the figures, and one line each that says whether they are fulfilled."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from portraitgen.metrics.bootstrap import CONFIDENCE, Resampling
from portraitgen.metrics.estimate import Estimate, difference
from portraitgen.metrics.scores import GENERATED, METHODS, MetricInfo


@dataclass(frozen=True, slots=True)
class Check:
    """A demand on the generated clips: better than a control by a margin.

    Attributes:
        metric: name of a figure that a grader gives.
        against: a control, a key of `METHODS`.
        margin: how much better it must be, in the unit of the figure; at 0 it must be better at all.
        required: whether a failure fails the whole; the others are reported only.
    """

    metric: str
    against: str
    margin: float = 0.0
    required: bool = True

    def __post_init__(self) -> None:
        if self.against not in METHODS or self.against == GENERATED:
            controls = ", ".join(method for method in METHODS if method != GENERATED)
            raise ValueError(f"check: unknown control {self.against!r}; known are {controls}")
        if self.margin < 0:
            raise ValueError(
                f"check of {self.metric} against {self.against}: margin {self.margin} is below 0"
            )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a check; `passed` is None when a figure that it needs is missing.

    `gain` is by how much the generated clips are better than the control; NaN when a figure is missing.
    """

    check: Check
    passed: bool | None
    text: str
    gain: float = math.nan


def judge(
    check: Check,
    metrics: Mapping[str, MetricInfo],
    estimates: Mapping[str, Mapping[str, Estimate]],
    resampling: Resampling,
) -> Verdict:
    """Hold the generated clips against a control, over the videos (or frames of the only one) that both have.

    Args:
        check: the demand.
        metrics: the figures that were taken; the check may name one whose grader was skipped.
        estimates: method -> metric -> figure.
        resampling: of the intervals where there is one video.
    """
    if check.metric not in metrics:
        return Verdict(check, None, f"{check.metric}: skipped, no grader took it")
    metric, control = metrics[check.metric], METHODS[check.against].phrase
    pair = []
    for method in (GENERATED, check.against):
        figure = estimates.get(method, {}).get(check.metric)
        if figure is None or math.isnan(figure.mean):
            why = "; ".join(figure.reasons) if figure else "not graded"
            return Verdict(check, None, f"{metric.label}: no figure for {METHODS[method].phrase} ({why})")
        pair.append(figure)
    ours, theirs = pair
    sign = 1.0 if metric.higher_is_better else -1.0
    lacking = ""
    if metric.level == "set":
        gain, low, high = sign * (ours.mean - theirs.mean), math.nan, math.nan
    else:
        paired = difference(ours, theirs, resampling)
        if not paired.num_units:
            return Verdict(check, None, f"{metric.label}: no {resampling.units} that {control} has too")
        gain = sign * paired.mean
        low, high = sorted(sign * bound for bound in paired.interval)
        if paired.num_units < len(ours.values):
            lacking = f" in {paired.num_units} of {len(ours.values)} {resampling.units}"
    passed = gain >= check.margin if check.margin else gain > 0

    amount = metric.show(abs(gain), unit=True)
    if passed:
        text = f"{metric.label} beats {control} by {amount}"
    elif gain > 0:
        text = f"{metric.label} beats {control} by only {amount}"
    else:
        text = f"{metric.label} is behind {control} by {amount}"
    text += lacking
    if math.isfinite(low):
        text += f", {CONFIDENCE:.0%} interval {metric.show(low)} to {metric.show(high)}"
    needs = f"needs {check.margin:g}{metric.unit}" if check.margin else "needs to be better"
    return Verdict(check, passed, f"{text} ({needs})", gain)
