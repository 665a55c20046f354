"""`evaluate.py history`: how the figures of a run went while it trained, on one page."""

import csv
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig
from rich.console import Console

from portraitgen.media.bounded import read_json
from portraitgen.media.files import writable_folder
from portraitgen.metrics.grading import Material
from portraitgen.metrics.report.history_page import History
from portraitgen.metrics.report.media import Media
from portraitgen.metrics.report.report import write_history
from portraitgen.metrics.saved import RESULTS, SavedResults, load_results
from portraitgen.metrics.scores import MetricInfo
from portraitgen.runs.config.check import check_config
from portraitgen.runs.evaluate.side_by_side import side_by_side
from portraitgen.runs.evaluate.sources.samples import GeneratedSamples
from portraitgen.training.best_weights import LIST
from portraitgen.training.figure_names import ROUNDS
from portraitgen.training.grading import rounds
from portraitgen.training.run_log import CsvLog

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class HistoryConfig:
    """What `evaluate.py history` reads."""

    run: str = MISSING
    """Folder of a run that was trained with callbacks=grading."""
    out: str = MISSING
    """Folder for history.html and history.csv."""
    title: str | None = None
    """Heading of the page; null: the name of the run."""
    show_videos: int = MISSING
    """At most so many videos are shown side by side."""


ConfigStore.instance().store(name="evaluate_history_schema", node=HistoryConfig)


def show_history(config: DictConfig) -> None:
    """Write the page of a run into `config.out`.

    Raises:
        ValueError: there are no graded rounds, or they cannot be read.
    """
    check_config(config)
    run = Path(config.run)
    folders = {step: each for step, each in rounds(run / ROUNDS).items() if (each / RESULTS).is_file()}
    if not folders:
        raise ValueError(f"run={run}: nothing was graded in it; train with callbacks=grading")
    found = {step: load_results(folder) for step, folder in folders.items()}
    last = max(found)
    asked = found[last].protocol["fingerprint"]
    same = {step: each for step, each in found.items() if each.protocol["fingerprint"] == asked}
    notes = []
    if left := len(found) - len(same):
        notes.append(
            f"{left} earlier round{'s' * (left != 1)} left out, whose figures were taken otherwise "
            "(graders, clips or faces)."
        )
    history = History(same, _chosen(run / ROUNDS / LIST, same), _cost(run / CsvLog.FILE_NAME))
    out = writable_folder(Path(config.out))
    paths = write_history(
        history,
        out,
        title=config.title or "/".join(run.absolute().parts[-2:]),
        media=_media(history, folders, out / "media", config.show_videos),
        notes=notes,
    )
    for path in paths.values():
        Console().print(str(path), highlight=False, markup=False, soft_wrap=True)


def _chosen(path: Path, found: Mapping[int, SavedResults]) -> dict[str, int]:
    """Label → step of the weights to show: the best by each figure, as the run's list says, and the last."""
    last, chosen = max(found), {}
    metrics: Mapping[str, MetricInfo] = found[last].metrics
    listed: Any = read_json(path) if path.is_file() else {}
    if not isinstance(listed, Mapping):
        raise ValueError(f"{path} is damaged: it is no list of figures; remove it")
    for name, best in listed.items():
        step = best.get("step") if isinstance(best, Mapping) else None
        if name in metrics and isinstance(step, int) and step in found:
            chosen[f"best {metrics[name].label}"] = step
        else:
            log.warning("the best weights by %s are not shown: their round is not there", name)
    return {**chosen, "last": last}


def _cost(path: Path) -> str | None:
    """What grading took of the time of the run, as its log says."""
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [(row.get("perf/grading_s"), row.get("perf/grading_share")) for row in csv.DictReader(file)]
    try:
        seconds = [float(each) for each, _ in rows if each]
        share = [float(each) for _, each in rows if each]
    except ValueError:
        return None  # damaged: the page does without
    if not (seconds and share and all(map(math.isfinite, seconds + share))):
        return None
    return f"{len(seconds)} rounds took {sum(seconds):.0f} s, {share[-1]:.1%} of the time of the last start."


def _media(history: History, folders: Mapping[int, Path], out: Path, count: int) -> list[Media]:
    """The videos of which the clips of all chosen weights are there, side by side."""
    labels: dict[int, list[str]] = {}
    for label, step in history.chosen.items():
        labels.setdefault(step, []).append(label)
    sources = {}
    for step, names in labels.items():
        try:
            sources[f"{' and '.join(names)} (step {step})"] = GeneratedSamples(folders[step])
        except ValueError as error:
            log.warning("the clips of step %d are not shown: %s", step, error)
    videos = sorted({key for source in sources.values() for key in source.keys})[:count]
    return [
        item
        for video in videos
        for item in side_by_side(
            {label: _material(source, video) for label, source in sources.items()}, video, out
        )
    ]


def _material(source: GeneratedSamples, video: str) -> Material | None:
    try:
        return source.read(video).material if video in source.samples else None
    except ValueError as error:
        log.warning("%s is not shown: %s", video, error)
        return None
