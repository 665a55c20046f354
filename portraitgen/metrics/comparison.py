"""Several results side by side: each run's figures, and their differences from those of the first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from portraitgen.metrics.bootstrap import Resampling, percentile_interval, resample_frames, resample_videos
from portraitgen.metrics.estimate import Estimate, estimate, estimate_of_set
from portraitgen.metrics.protocol import differences
from portraitgen.metrics.results import RESAMPLES
from portraitgen.metrics.saved import SavedResults
from portraitgen.metrics.scores import GENERATED, MetricInfo, Row


@dataclass(frozen=True, slots=True)
class Difference:
    """A run's figure minus that of the first run.

    Attributes:
        mean: the difference of the means.
        interval: of the difference, resampled in pairs; NaN where nothing is paired.
        verdict: "better" or "worse" when the interval leaves no doubt about the side, else "open"; None for a
            figure without a better side, or without an interval.
    """

    mean: float
    interval: tuple[float, float]
    verdict: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: label -> results, in the order given; the first is what the others are held against.
        metrics: the figures that all runs have.
        left_out: figures that only some runs have.
        estimates: label -> metric -> figure of the generated clips.
        differences: label -> metric -> difference from the first run; without the first. Figures of sets of
            another size have none: distances between sets grow as the samples get fewer.
        videos: those graded in all runs, over which all means are.
        clashes: label -> how its protocol differs from the first one's, allowed by the user; empty is right.
        interval_statement: what the intervals are.
    """

    runs: Mapping[str, SavedResults]
    metrics: Mapping[str, MetricInfo]
    left_out: tuple[str, ...]
    estimates: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Difference]]
    videos: tuple[str, ...]
    clashes: Mapping[str, Sequence[str]]
    interval_statement: str


def compare(
    runs: Mapping[str, SavedResults],
    *,
    allow_other_protocols: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Hold runs against the first one.

    One resampling of the videos (of the frames, when there is one video) serves all runs and figures: what
    all runs find hard moves all of them, and leaves the differences alone.

    Args:
        runs: label -> results, two at least.
        allow_other_protocols: compare what was taken differently; the report then says so in large letters.
        resamples: number of bootstrap resamples.
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
    resampling = _resampling([found[videos[0]] for found in rows.values()], len(videos), resamples, seed)
    estimates = {
        label: _estimates([found[video] for video in videos], runs[label], metrics, resampling)
        for label, found in rows.items()
    }
    baseline, *others = estimates
    everything = dict.fromkeys(name for run in runs.values() for name in run.metrics)
    return Comparison(
        runs=runs,
        metrics=metrics,
        left_out=tuple(name for name in everything if name not in metrics),
        estimates=estimates,
        differences={
            label: {
                name: _difference(estimates[label][name], estimates[baseline][name], metric)
                for name, metric in metrics.items()
            }
            for label in others
        },
        videos=videos,
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
    return {
        name: estimate_of_set(run.sets[name], resampling)
        if name in run.sets
        else estimate(rows, name, metric, resampling)
        for name, metric in metrics.items()
    }


def _difference(ours: Estimate, theirs: Estimate, metric: MetricInfo) -> Difference:
    if metric.level == "set" and ours.num_present != theirs.num_present:
        return Difference(math.nan, (math.nan, math.nan), None)
    low, high = percentile_interval(ours.resampled - theirs.resampled)
    verdict = None
    if metric.higher_is_better is not None and math.isfinite(low):
        side = np.sign([low, high]) * (1 if metric.higher_is_better else -1)
        verdict = "better" if (side > 0).all() else "worse" if (side < 0).all() else "open"
    return Difference(ours.mean - theirs.mean, (low, high), verdict)


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
