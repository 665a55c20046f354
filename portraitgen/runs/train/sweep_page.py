"""The page of a sweep over trainings: its trials by the figures that `optimized_metric` names."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from portraitgen.metrics.report.report import write_trials
from portraitgen.metrics.report.trials_page import Trial
from portraitgen.metrics.saved import RESULTS, load_results
from portraitgen.metrics.scores import MetricInfo
from portraitgen.runs.config.sought import is_graded, optimized_metrics
from portraitgen.runs.config.yaml_files import load_yaml
from portraitgen.training.figure_names import GRADED, ROUNDS


class EndedTrial(NamedTuple):
    """A trial as the table of the sweep shows it, with the last value of each column of its log."""

    name: str
    folder: Path
    state: str
    last: Mapping[str, str]


def write_sweep_page(trials: Sequence[EndedTrial], folder: Path) -> Path | None:
    """Write trials.html into the folder of the sweep.

    None where the trials look at no figure, or at one of which nobody knows which side is better.
    """
    names = next((found for trial in trials if (found := _sought(trial.folder))), [])
    metrics = {}
    for name in names:
        known = (info for trial in trials if (info := _describe(name, trial.folder)) is not None)
        info = next(known, None)
        if info is None or info.higher_is_better is None:
            return None
        metrics[name] = info
    if not metrics:
        return None
    shown = [
        Trial(each.name, each.state, {name: _figure(each.last, name) for name in names}) for each in trials
    ]
    return write_trials(shown, metrics, folder, title=f"Sweep {folder.name}")


def _sought(folder: Path) -> list[str]:
    """What the trial in `folder` looked at, as its config.yaml says."""
    path = folder / "config.yaml"
    return optimized_metrics(OmegaConf.create(load_yaml(path))) if path.is_file() else []


def _describe(name: str, folder: Path) -> MetricInfo | None:
    """What a figure is: a graded one as a round of the trial states it; of a loss less is better."""
    if not is_graded(name):
        loss = name.partition("/")[2].startswith("loss")
        return MetricInfo(name, "", 5, False, "as it was logged") if loss else None
    rounds = sorted(folder.glob(f"{ROUNDS}/step_*/{RESULTS}"))
    figure, _, control = name.removeprefix(GRADED).partition(".")
    metrics = load_results(rounds[-1]).metrics if rounds else {}
    return None if control else metrics.get(figure)


def _figure(last: Mapping[str, str], name: str) -> tuple[float, float, float]:
    mean, low, high = (float(last.get(f"{name}{end}") or math.nan) for end in ("", ".low", ".high"))
    return mean, low, high
