"""Grade generated clips against the truth and against what any network has to beat."""

import logging
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from portraitgen.faces.backend import FaceBackend
from portraitgen.media.files import writable_folder
from portraitgen.metrics.checks import Check
from portraitgen.metrics.grader import Grader, SetFigure, SetGrader
from portraitgen.metrics.grading import grade
from portraitgen.metrics.protocol import Protocol, VideoFacts
from portraitgen.metrics.report.paper_tables import load_table
from portraitgen.metrics.report.ranking import best_and_worst, choose_figure
from portraitgen.metrics.report.report import write_report
from portraitgen.metrics.report.tables import figure_table, mark, terminal_table
from portraitgen.metrics.results import Results, aggregate
from portraitgen.metrics.saved import protocol_json
from portraitgen.metrics.scores import GENERATED, METHODS, TRUTH, Row
from portraitgen.runs.config.check import check_config
from portraitgen.runs.evaluate.graders import (
    build_graders,
    check_names,
    figures_of,
    refuse_own_judges,
)
from portraitgen.runs.evaluate.kept_rows import GradedVideo, KeptRows
from portraitgen.runs.evaluate.processes import evaluation_processes
from portraitgen.runs.evaluate.sources.choose import choose_source
from portraitgen.runs.evaluate.sources.source import ClipSource
from portraitgen.runs.evaluate.wandb_report import send_report
from portraitgen.runs.secrets import words_without_secrets
from portraitgen.runs.train.rundir import describe_commit, package_versions

log = logging.getLogger(__name__)


def evaluate(config: DictConfig) -> None:
    """`grade_and_report`, whose required checks must be fulfilled.

    Raises:
        ValueError: as `grade_and_report`, or a required check failed.
    """
    results = grade_and_report(config)
    if results is not None and not results.passed:
        raise ValueError("a required check failed, see above (metrics.checks)")


def grade_and_report(config: DictConfig) -> Results | None:
    """Grade what lies in `config.generated`; write the report into `config.out` and print it.

    Started by torchrun, each process grades its share of the videos, and the first one reports; the others
    return None.

    Raises:
        ValueError: there is nothing to grade, or files do not fit.
    """
    check_config(config)
    source = choose_source(config)
    source.check()
    for name in config.papers:
        load_table(name)
    checks = [instantiate(check) for check in config.metrics.checks]
    graders, skipped = build_graders(config.metrics.graders, strict=config.strict)
    metrics = figures_of(graders)
    check_names(checks, metrics, skipped)
    choose_figure(metrics, config.show_by, directed=True)
    out = Path(config.out)
    backend: FaceBackend = instantiate(config.faces, _convert_="all")
    refuse_own_judges(graders, source.recognizers, backend)
    with evaluation_processes() as processes:
        if not processes.rank:
            writable_folder(out)
        kept = KeptRows(out, _graded_by(source, graders, backend), rank=processes.rank)
        rows, videos = _grade_all(source, processes.share(source.keys), graders, backend, kept)
        rows, videos = processes.gather(rows), processes.gather(videos)
        sets = _set_figures(graders, rows)
    if processes.rank:
        return None
    checks = [_where_possible(check, rows) for check in checks]
    results = aggregate(
        rows,
        metrics=metrics,
        protocol=_protocol(source, videos, graders, backend),
        sets=sets,
        skipped=skipped,
        checks=checks,
    )
    _report(results, source, out, config)
    kept.forget()
    return results


def _where_possible(check: Check, rows: Sequence[Row]) -> Check:
    """The check, required only where the clips have what it holds them against: a truth, and its control."""
    there = {row.method for row in rows if row.failure is None}
    lacking = [method for method in (TRUTH, check.against) if method not in there]
    if not check.required or not lacking or GENERATED not in there:
        return check
    log.info(
        "the check of %s is reported but not required: no clip has %s",
        *(check.metric, METHODS[lacking[0]].phrase),
    )
    return replace(check, required=False)


def _graded_by(source: ClipSource, graders: Mapping[str, Grader], backend: FaceBackend) -> Mapping[str, Any]:
    """All that the rows of a video depend on beside its files."""
    return {
        "graders": {name: dict(grader.facts) for name, grader in graders.items()},
        "metrics": {name: asdict(info) for each in graders.values() for name, info in each.metrics.items()},
        "faces": [backend.name, backend.min_score],
        "preparation": dict(source.preparation),
        "commit": describe_commit(),
        "versions": package_versions(),
    }


def _grade_all(
    source: ClipSource,
    keys: Sequence[str],
    graders: Mapping[str, Grader],
    backend: FaceBackend,
    kept: KeptRows,
) -> tuple[list[Row], list[VideoFacts]]:
    """Rows and facts of the videos; what an earlier start has graded goes into the sets alone."""
    of_sets = {name: grader for name, grader in graders.items() if isinstance(grader, SetGrader)}
    stamps = {key: source.stamp(key) for key in keys}
    before = {key: graded for key in keys if (graded := kept.find(key, stamps[key])) is not None}
    if before:
        log.info(
            "going on: %d of %d videos were graded by an earlier start, whose rows lie in %s",
            *(len(before), len(keys), kept.folder),
        )
    rows: list[Row] = []
    videos = []
    for number, key in enumerate(keys, start=1):
        if key in before:
            facts, found = before[key]
            material = source.read(key).material if of_sets else None
            if material is not None:
                grade(material, graders=of_sets, backend=backend)
        else:
            reading = source.read(key)
            facts = reading.facts
            if reading.material is None:
                found = (Row(key, GENERATED, reading.frames, {}, failure=reading.failure),)
                log.warning("%s has no figures: %s", key, reading.failure)
            else:
                found = tuple(grade(reading.material, graders=graders, backend=backend))
                log.info("graded %s (%d of %d)", key, number, len(keys))
            kept.keep(GradedVideo(facts, found), stamps[key])
        rows += found
        videos.append(facts)
    return rows, videos


def _set_figures(graders: Mapping[str, Grader], rows: Iterable[Row]) -> dict[str, dict[str, SetFigure]]:
    """Method -> figures of its set; all processes compute them in one order."""
    graded = {row.method for row in rows if row.failure is None}
    sets: dict[str, dict[str, SetFigure]] = {method: {} for method in METHODS if method in graded}
    for grader in graders.values():
        if isinstance(grader, SetGrader):
            for method, figures in sets.items():
                figures |= grader.compute(method)
    return sets


def _protocol(
    source: ClipSource, videos: Iterable[VideoFacts], graders: Mapping[str, Grader], backend: FaceBackend
) -> Protocol:
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


def _report(results: Results, source: ClipSource, out: Path, config: DictConfig) -> None:
    """Write the report and print the table."""
    name, shown = best_and_worst(results, by=config.show_by, count=config.show_videos)
    media = [
        replace(item, caption=f"{said}. {item.caption}")
        for video, said in shown
        for item in source.media(video, out / "media")
    ]
    header, body = figure_table(results)
    paths = write_report(
        results,
        out,
        title=config.title,
        media=media,
        media_heading="Videos"
        if name is None
        else f"Best and worst by {results.metrics[name].label}"
        if len(shown) < len(results.videos)
        else f"Videos, best {results.metrics[name].label} first",
        papers=[load_table(each) for each in config.papers],
    )
    console = Console()
    count = len(results.videos)
    title = f"{config.title}, over {count} video{'s' * (count != 1)}"
    console.print(terminal_table(header, body, title=title, bold=1))
    for verdict in results.verdicts:
        console.print(f"{mark(verdict.passed):>9}  {verdict.text}", highlight=False, markup=False)
    for path in paths.values():
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)
    if config.wandb is not None:
        send_report(
            config.wandb,
            title=config.title,
            folder=out,
            config=protocol_json(results),
            summary={name: figure.mean for name, figure in results.estimates[GENERATED].items()},
            header=header,
            body=[[f"{mean} ({bounds})" if bounds else mean for mean, bounds in cells] for cells in body],
            media=media,
            page=paths["html"],
        )
    seen = source.settings.get("graded frames seen in training", "none")
    if seen != "none":
        log.warning("graded frames seen in training: %s. The figures are not those of unseen data", seen)
