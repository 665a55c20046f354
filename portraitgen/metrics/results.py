"""Rows of many clips become one set of figures: means with intervals, verdicts, and the protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from portraitgen.metrics.bootstrap import resample_frames, resample_videos
from portraitgen.metrics.checks import Check, Verdict, judge
from portraitgen.metrics.estimate import Estimate, estimate
from portraitgen.metrics.scores import GENERATED, METHODS, METRICS, Row

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Protocol:
    """What somebody else needs to take the same figures again.

    Attributes:
        fps: frames a second of the graded clips.
        resolution: width and height in pixels of the graded frames.
        backend: name of the face backend that found the landmarks.
        min_face_score: the score from which it counts a face as found.
        commit: commit of the code, with a mark when it was changed.
        versions: package -> version.
        settings: anything else that changes the figures: weights file and its hash, sampling steps, seed.
    """

    fps: float
    resolution: tuple[int, int]
    backend: str
    min_face_score: float
    commit: str
    versions: Mapping[str, str]
    settings: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """All that a report says.

    Attributes:
        rows: sorted by video and method.
        estimates: method -> metric -> figure, in the order of `METHODS` and `METRICS`.
        verdicts: one for each check.
        protocol: how the figures were taken.
        interval_statement: what the intervals are.
    """

    rows: tuple[Row, ...]
    estimates: Mapping[str, Mapping[str, Estimate]]
    verdicts: tuple[Verdict, ...]
    protocol: Protocol
    interval_statement: str

    @property
    def passed(self) -> bool:
        """Whether every required check is fulfilled."""
        return all(verdict.passed is True for verdict in self.verdicts if verdict.check.required)

    @property
    def videos(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.video for row in self.rows))

    @property
    def num_frames(self) -> int:
        """Frames graded of one method, over all videos."""
        return sum(len(row.frames) for row in self.rows if row.method == GENERATED)


def aggregate(
    rows: Sequence[Row],
    *,
    protocol: Protocol,
    checks: Sequence[Check] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Results:
    """Put the rows of all videos (and of all ranks) together; their order does not matter.

    The mean is over videos, each with its mean over frames. With several videos the interval resamples
    videos; with one it resamples runs of its frames, and says so.

    Raises:
        ValueError: no generated row, a row that comes twice, or a method that lacks a video or frames of it.
    """
    ordered = sorted(rows, key=lambda row: (row.video, list(METHODS).index(row.method)))
    by_method: dict[str, list[Row]] = {
        method: found for method in METHODS if (found := [row for row in ordered if row.method == method])
    }
    if GENERATED not in by_method:
        raise ValueError("no generated clip was graded, so that there is nothing to report")
    clips = [(row.video, row.frames.tolist()) for row in by_method[GENERATED]]
    if len({video for video, _ in clips}) < len(clips):
        raise ValueError("a video was graded twice; gather the rows of each rank once")
    for method, found in by_method.items():
        if [(row.video, row.frames.tolist()) for row in found] != clips:
            raise ValueError(f"{method} was not graded on the same videos and frames as the generated clips")

    if len(clips) > 1:
        resampling = resample_videos(len(clips), resamples=resamples, seed=seed)
    else:
        resampling = resample_frames(len(clips[0][1]), resamples=resamples, seed=seed)
    estimates = {
        method: {
            name: estimate(found, name, resampling)
            for name in METRICS
            if any(name in row.scores for row in found)
        }
        for method, found in by_method.items()
    }
    verdicts = tuple(judge(check, estimates) for check in checks)
    return Results(tuple(ordered), estimates, verdicts, protocol, resampling.statement)
