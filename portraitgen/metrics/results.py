"""Rows of many clips become one set of figures: means with intervals, verdicts, and the protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from portraitgen.metrics.bootstrap import resample_frames, resample_videos
from portraitgen.metrics.checks import Check, Verdict, judge
from portraitgen.metrics.estimate import Estimate, estimate, estimate_of_set
from portraitgen.metrics.grader import SetFigure
from portraitgen.metrics.protocol import Protocol
from portraitgen.metrics.scores import GENERATED, METHODS, MetricInfo, Row

RESAMPLES = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """All that a report says.

    Attributes:
        rows: sorted by video and method.
        metrics: what each figure is, in the order of every table.
        estimates: method -> metric -> figure, in the order of `METHODS` and `metrics`.
        skipped: name of a grader -> why it could not be built: which weights are missing.
        verdicts: one for each check.
        protocol: how the figures were taken.
        interval_statement: what the intervals are.
    """

    rows: tuple[Row, ...]
    metrics: Mapping[str, MetricInfo]
    estimates: Mapping[str, Mapping[str, Estimate]]
    verdicts: tuple[Verdict, ...]
    protocol: Protocol
    interval_statement: str
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every required check is fulfilled."""
        return all(verdict.passed is True for verdict in self.verdicts if verdict.check.required)

    @property
    def videos(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.video for row in self.rows))

    @property
    def missing_faces(self) -> dict[str, int] | None:
        """Method -> frames in which a face should be and none was found; None when nobody looked."""
        looked = [row for row in self.rows if "detection_rate" in row.scores]
        counts: dict[str, int] = {}
        for row in looked:
            absent = int((row.scores["detection_rate"] == 0).sum())
            counts[row.method] = counts.get(row.method, 0) + absent
        return counts or None

    @property
    def num_frames(self) -> int:
        """Frames graded of one method, over all videos."""
        return sum(len(row.frames) for row in self.rows if row.method == GENERATED)


def aggregate(
    rows: Sequence[Row],
    *,
    metrics: Mapping[str, MetricInfo],
    protocol: Protocol,
    sets: Mapping[str, Mapping[str, SetFigure]] | None = None,
    skipped: Mapping[str, str] | None = None,
    checks: Sequence[Check] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Results:
    """Put the rows of all videos (and of all ranks) together; their order does not matter.

    The mean is over videos, each with its mean over frames. With several videos the interval resamples
    videos; with one it resamples runs of its frames, and says so. A video whose generated clip failed is
    missing for every method, so that all means are over the same videos.

    Args:
        rows: one for each video and method.
        metrics: what the graders give.
        protocol: how the figures were taken.
        sets: method -> figures of its whole set.
        skipped: name of a grader -> why it could not be built.
        checks: demands to judge.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        ValueError: no generated row, a row that comes twice, a method that lacks a video or frames of it, or
            figures that nobody has announced.
    """
    rows = [*rows, *_failed_controls(rows)]
    ordered = sorted(rows, key=lambda row: (row.video, list(METHODS).index(row.method)))
    by_method: dict[str, list[Row]] = {
        method: found
        for method in METHODS
        if (found := [row for row in ordered if row.method == method])
        and (method == GENERATED or any(row.failure is None for row in found))
    }
    _check_rows(by_method, metrics)
    clips = by_method[GENERATED]
    if len(clips) > 1:
        resampling = resample_videos(len(clips), resamples=resamples, seed=seed)
    else:
        resampling = resample_frames(max(len(clips[0].frames), 1), resamples=resamples, seed=seed)
    estimates: dict[str, dict[str, Estimate]] = {}
    for method, found in by_method.items():
        of_set = (sets or {}).get(method, {})
        estimates[method] = {}
        for name, metric in metrics.items():
            if name in of_set:
                estimates[method][name] = estimate_of_set(of_set[name])
            elif any(name in row.scores for row in found) or (
                metric.level != "set" and all(row.failure is not None for row in found)
            ):
                estimates[method][name] = estimate(found, name, metric, resampling)
    return Results(
        rows=tuple(row for row in ordered if row.method in by_method),
        metrics=metrics,
        estimates=estimates,
        verdicts=tuple(judge(check, metrics, estimates, resampling) for check in checks),
        protocol=protocol,
        interval_statement=resampling.statement,
        skipped=skipped or {},
    )


def _failed_controls(rows: Sequence[Row]) -> list[Row]:
    """Rows of the controls for videos whose generated clip failed."""
    failed = [row for row in rows if row.method == GENERATED and row.failure is not None]
    controls = {row.method for row in rows} - {GENERATED}
    return [replace(row, method=method) for row in failed for method in sorted(controls)]


def _check_rows(by_method: Mapping[str, Sequence[Row]], metrics: Mapping[str, MetricInfo]) -> None:
    if GENERATED not in by_method:
        raise ValueError("no generated clip was graded, so that there is nothing to report")
    clips = [(row.video, row.frames.tolist()) for row in by_method[GENERATED]]
    if len({video for video, _ in clips}) < len(clips):
        raise ValueError("a video was graded twice; gather the rows of each rank once")
    for method, found in by_method.items():
        if [(row.video, row.frames.tolist()) for row in found] != clips:
            raise ValueError(f"{method} was not graded on the same videos and frames as the generated clips")
        for row in found:
            unknown = sorted(row.scores.keys() - metrics.keys())
            if unknown:
                raise ValueError(
                    f"row {row.video}/{method}: unknown figure {unknown[0]!r}; known are {', '.join(metrics)}"
                )
