"""Several results side by side: each run's figures, and their differences from those of the first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from portraitgen.metrics.bootstrap import Resampling, resample_frames, resample_videos
from portraitgen.metrics.estimate import Estimate, difference, estimate, estimate_of_set
from portraitgen.metrics.paired import LEVEL, holm
from portraitgen.metrics.protocol import differences
from portraitgen.metrics.results import RESAMPLES
from portraitgen.metrics.saved import SavedResults
from portraitgen.metrics.scores import GENERATED, MetricInfo, Row

BETTER, WORSE, OPEN, TOO_FEW = "better", "worse", "open", "too few videos"
FAILED = "failed"
"""Figure of a comparison in which a clip failed: a run that fails on hard videos gains by it nowhere else."""
FAILED_INFO = MetricInfo("Failed", "", 2, False, "share of the videos of which there is no clip", "clip")


@dataclass(frozen=True, slots=True)
class Difference:
    """A run's figure minus that of the first run, over the videos that have it in both.

    Attributes:
        mean: of the differences; of a set the difference of its two figures; NaN without a common video.
        interval: of the difference; NaN where the videos are too few.
        num_units: the videos (or frames of the only one) that both have; 0 of a set.
        p_value: of the sign-flip test; NaN where there is none.
        verdict: BETTER or WORSE where the test refuses that the runs are equal, with all figures and runs of
            the comparison corrected for (Holm); TOO_FEW where no difference whatever could have done that
            with so many videos, else OPEN. None for a figure without a better side, or of a set.
    """

    mean: float
    interval: tuple[float, float]
    num_units: int
    p_value: float
    verdict: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: label -> results, in the order given; the first is what the others are held against.
        metrics: the figures that all runs have, and `FAILED` first where a clip of one failed.
        left_out: figures that only some runs have.
        estimates: label -> metric -> figure of the generated clips.
        differences: label -> metric -> difference from the first run; without the first. Figures of sets of
            another size have none: distances between sets grow as the samples get fewer.
        videos: those that all runs were to make. A mean is over those of them that have the figure.
        units: what the means are over: "videos", or "frames" of the only one.
        clashes: label -> how its protocol differs from the first one's, allowed by the user; empty is right.
        interval_statement: what the intervals are.
    """

    runs: Mapping[str, SavedResults]
    metrics: Mapping[str, MetricInfo]
    left_out: tuple[str, ...]
    estimates: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Difference]]
    videos: tuple[str, ...]
    units: str
    clashes: Mapping[str, Sequence[str]]
    interval_statement: str


def compare(
    runs: Mapping[str, SavedResults],
    *,
    allow_other_protocols: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Hold runs against the first one, each figure over the videos that have it in both.

    Args:
        runs: label -> results, two at least.
        allow_other_protocols: compare what was taken differently; the report then says so in large letters.
        resamples: number of bootstrap resamples, for the intervals of the means.
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than two runs, protocols that differ (all entries are listed), no video or no figure
            that all of them have.
    """
    if len(runs) < 2:
        raise ValueError(f"a comparison needs two results at least, got {', '.join(runs) or 'none'}")
    first = next(iter(runs.values()))
    clashes = {
        label: found for label, run in runs.items() if (found := differences(first.protocol, run.protocol))
    }
    if clashes and not allow_other_protocols:
        raise ValueError(_refusal(next(iter(runs)), clashes))
    rows = {label: _generated(run) for label, run in runs.items()}
    videos = tuple(
        video for video in rows[next(iter(runs))] if all(video in found for found in rows.values())
    )
    metrics = {
        name: metric
        for name, metric in first.metrics.items()
        if all(name in run.metrics for run in runs.values())
    }
    if not videos or not metrics:
        raise ValueError(
            f"the results have no {'video' if metrics else 'figure'} in common: nothing to compare"
        )
    if any(found[video].failure is not None for found in rows.values() for video in videos):
        metrics = {FAILED: FAILED_INFO, **metrics}
    resampling = _resampling([found[videos[0]] for found in rows.values()], len(videos), resamples, seed)
    estimates = {
        label: _estimates([found[video] for video in videos], runs[label], metrics, resampling)
        for label, found in rows.items()
    }
    everything = dict.fromkeys(name for run in runs.values() for name in run.metrics)
    return Comparison(
        runs=runs,
        metrics=metrics,
        left_out=tuple(name for name in everything if name not in metrics),
        estimates=estimates,
        differences=_differences(estimates, metrics, resampling),
        videos=videos,
        units=resampling.units,
        clashes=clashes,
        interval_statement=resampling.statement,
    )


def _refusal(first: str, clashes: Mapping[str, Sequence[str]]) -> str:
    lines = ["these results were taken by different protocols, so that their figures do not compare:"]
    for label, found in clashes.items():
        lines += [f"{first} | {label}", *(f"  {line}" for line in found[:20])]
        lines += [f"  and {len(found) - 20} more"] if len(found) > 20 else []
    lines.append(
        "Evaluate all in one way; or, to see them side by side nevertheless, say allow_other_protocols=true"
    )
    return "\n  ".join(lines)


def _generated(run: SavedResults) -> dict[str, Row]:
    return {row.video: row for row in run.rows if row.method == GENERATED}


def _resampling(rows: Sequence[Row], num_videos: int, resamples: int, seed: int) -> Resampling:
    """Over videos; with one, over those of its frames that all runs have."""
    if num_videos > 1:
        return resample_videos(num_videos, resamples=resamples, seed=seed)
    lengths = [len(row.frames) for row in rows if row.failure is None]
    return resample_frames(min(lengths, default=1), resamples=resamples, seed=seed)


def _estimates(
    rows: Sequence[Row], run: SavedResults, metrics: Mapping[str, MetricInfo], resampling: Resampling
) -> dict[str, Estimate]:
    failed = [
        Row(row.video, row.method, np.zeros(1, np.int64), {FAILED: np.array(float(row.failure is not None))})
        for row in rows
    ]
    return {
        name: estimate_of_set(run.sets[name])
        if name in run.sets
        else estimate(failed if name == FAILED else rows, name, metric, resampling)
        for name, metric in metrics.items()
    }


def _differences(
    estimates: Mapping[str, Mapping[str, Estimate]], metrics: Mapping[str, MetricInfo], resampling: Resampling
) -> dict[str, dict[str, Difference]]:
    """Of all runs but the first; verdicts are given together, as many tests find something by chance."""
    baseline, *others = estimates
    paired = {
        (label, name): difference(estimates[label][name], estimates[baseline][name], resampling)
        for label in others
        for name, metric in metrics.items()
        if metric.level != "set"
    }
    judged = [key for key in paired if metrics[key[1]].higher_is_better is not None]
    refused = dict(zip(judged, holm([paired[key].p_value for key in judged]), strict=True))
    differences: dict[str, dict[str, Difference]] = {label: {} for label in others}
    for label in others:
        for name, metric in metrics.items():
            if metric.level == "set":
                differences[label][name] = _set_difference(estimates[label][name], estimates[baseline][name])
                continue
            found = paired[label, name]
            verdict = None
            if (label, name) in refused and found.num_units:
                could_be = resampling.units == "videos" and found.least_p_value <= LEVEL / len(judged)
                ahead = found.mean > 0 if metric.higher_is_better else found.mean < 0
                verdict = OPEN if could_be else TOO_FEW
                if refused[label, name]:
                    verdict = BETTER if ahead else WORSE
            differences[label][name] = Difference(
                found.mean, found.interval, found.num_units, found.p_value, verdict
            )
    return differences


def _set_difference(ours: Estimate, theirs: Estimate) -> Difference:
    mean = ours.mean - theirs.mean if ours.num_present == theirs.num_present else math.nan
    return Difference(mean, (math.nan, math.nan), 0, math.nan, None)


def label_runs(runs: Sequence[SavedResults]) -> dict[str, SavedResults]:
    """Runs by the settings in which they differ: as few of them as tell all runs apart, else numbered.

    The settings of the system come first, the folder of the clips last; of paths only what differs is said.
    """
    settings = [
        {**run.protocol["settings"], "clips": run.protocol["source"].get("generated")} for run in runs
    ]
    names = [name for name in dict.fromkeys(name for each in settings for name in each) if name != "clips"]
    parts: list[list[str]] = [[] for _ in runs]
    for name in [*names, "clips"]:
        said = _shortened([str(each.get(name)) for each in settings])
        together = [(*part, word) for part, word in zip(parts, said, strict=True)]
        if len(set(together)) > len({tuple(part) for part in parts}):
            for part, word in zip(parts, said, strict=True):
                part.append(word if name in ("weights", "clips", "system") else f"{name} {word}")
    labels = [", ".join(part) or "run" for part in parts]
    return {
        label if labels.count(label) == 1 else f"{label} ({index + 1})": run
        for index, (label, run) in enumerate(zip(labels, runs, strict=True))
    }


def _shortened(paths: Sequence[str]) -> list[str]:
    """Paths without the folders that all share, and without the suffix of weights."""
    split = [path.removesuffix(".safetensors").split("/") for path in paths]
    if len({len(each) for each in split}) == 1:
        kept = [place for place, words in enumerate(zip(*split, strict=True)) if len(set(words)) > 1]
        split = [[each[place] for place in kept] for each in split]
    return ["/".join(each) for each in split]
