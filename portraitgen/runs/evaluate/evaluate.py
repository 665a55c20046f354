"""Grade generated clips against the truth and against what any network has to beat."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from portraitgen.faces.backend import FaceBackend
from portraitgen.media.allocator import collecting_new_garbage_alone
from portraitgen.media.files import writable_folder
from portraitgen.metrics.checks import Check
from portraitgen.metrics.grader import Grader
from portraitgen.metrics.report.paper_tables import load_table
from portraitgen.metrics.report.ranking import best_and_worst, choose_figure
from portraitgen.metrics.report.report import write_report
from portraitgen.metrics.report.tables import figure_table, mark, terminal_table
from portraitgen.metrics.results import Results, aggregate
from portraitgen.metrics.saved import protocol_json
from portraitgen.metrics.scores import GENERATED, METHODS, TRUTH, Row
from portraitgen.runs.config.check import check_config
from portraitgen.runs.evaluate.engine import grade_videos, protocol_of, set_figures
from portraitgen.runs.evaluate.graders import (
    build_graders,
    check_names,
    figures_of,
    refuse_own_judges,
)
from portraitgen.runs.evaluate.kept_rows import KeptRows
from portraitgen.runs.evaluate.processes import evaluation_processes
from portraitgen.runs.evaluate.sources.choose import choose_source
from portraitgen.runs.evaluate.sources.source import ClipSource
from portraitgen.runs.evaluate.wandb_report import send_report
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
    with evaluation_processes() as processes, collecting_new_garbage_alone():
        if not processes.rank:
            writable_folder(out)
        kept = KeptRows(out, _graded_by(source, graders, backend), rank=processes.rank)
        graded = []
        keys = processes.share(source.keys)
        for number, video in enumerate(grade_videos(source, keys, graders, backend, kept=kept), start=1):
            log.info("graded %s (%d of %d)", video.facts.video, number, len(keys))
            graded.append(video)
        rows = processes.gather([row for video in graded for row in video.rows])
        videos = processes.gather([video.facts for video in graded])
        sets = set_figures(graders, rows)
    if processes.rank:
        return None
    checks = [_where_possible(check, rows) for check in checks]
    results = aggregate(
        rows,
        metrics=metrics,
        protocol=protocol_of(source, videos, graders, backend),
        sets=sets,
        skipped=skipped,
        checks=checks,
    )
    with collecting_new_garbage_alone():
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
