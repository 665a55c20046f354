"""The engine of every grading: one video of a source after the other, and how the figures were taken."""

import logging
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from portraitgen.faces.backend import FaceBackend
from portraitgen.metrics.grader import Grader, SetFigure, SetGrader
from portraitgen.metrics.grading import grade
from portraitgen.metrics.protocol import Protocol, VideoFacts
from portraitgen.metrics.scores import GENERATED, METHODS, Row
from portraitgen.runs.evaluate.kept_rows import GradedVideo, KeptRows
from portraitgen.runs.evaluate.sources.source import ClipSource
from portraitgen.runs.secrets import words_without_secrets
from portraitgen.runs.train.rundir import describe_commit, package_versions

log = logging.getLogger(__name__)


def grade_videos(
    source: ClipSource,
    keys: Sequence[str],
    graders: Mapping[str, Grader],
    backend: FaceBackend,
    *,
    kept: KeptRows | None = None,
    methods: Collection[str] = tuple(METHODS),
) -> Iterator[GradedVideo]:
    """Rows and facts of each video; what an earlier start has graded goes into the sets alone.

    Args:
        source: where the videos are.
        keys: those to grade.
        kept: rows of earlier starts, which those of this one are added to; None: none are kept.
        methods: those to grade.
    """
    of_sets = {name: grader for name, grader in graders.items() if isinstance(grader, SetGrader)}
    stamps = {key: source.stamp(key) for key in keys} if kept is not None else {}
    before = {}
    if kept is not None:
        before = {key: graded for key in keys if (graded := kept.find(key, stamps[key])) is not None}
        if before:
            log.info(
                "going on: %d of %d videos were graded by an earlier start, whose rows lie in %s",
                *(len(before), len(keys), kept.folder),
            )
    for key in keys:
        if key in before:
            material = source.read(key).material if of_sets else None
            if material is not None:
                grade(material, graders=of_sets, backend=backend)
            yield before[key]
            continue
        reading = source.read(key)
        if reading.material is None:
            found = [Row(key, GENERATED, reading.frames, {}, failure=reading.failure)]
            log.warning("%s has no figures: %s", key, reading.failure)
        else:
            found = grade(reading.material, graders=graders, backend=backend, methods=methods)
        graded = GradedVideo(reading.facts, tuple(found))
        if kept is not None:
            kept.keep(graded, stamps[key])
        yield graded


def set_figures(graders: Mapping[str, Grader], rows: Iterable[Row]) -> dict[str, dict[str, SetFigure]]:
    """Method -> figures of its set; all processes compute them in one order."""
    graded = {row.method for row in rows if row.failure is None}
    sets: dict[str, dict[str, SetFigure]] = {method: {} for method in METHODS if method in graded}
    for grader in graders.values():
        if isinstance(grader, SetGrader):
            for method, figures in sets.items():
                figures |= grader.compute(method)
    return sets


def protocol_of(
    source: ClipSource, videos: Iterable[VideoFacts], graders: Mapping[str, Grader], backend: FaceBackend
) -> Protocol:
    """How the figures of these videos were taken.

    Args:
        videos: what each was graded against, in any order.
    """
    commit = describe_commit()
    return Protocol(
        videos=tuple(sorted(videos, key=lambda facts: facts.video)),
        **source.preparation,
        face_backend=backend.name,
        min_face_score=backend.min_score,
        graders={figure: dict(grader.facts) for grader in graders.values() for figure in grader.metrics},
        settings=source.settings,
        source=source.place,
        commit=f"{commit['commit'] or 'unknown'}{' (changed)' if commit['dirty'] else ''}",
        versions=package_versions(),
        command=shlex.join(["python", Path(sys.argv[0]).name, *words_without_secrets(sys.argv[1:])]),
    )
