"""The best weights of a run by each of some figures, whatever part of the run is killed and done again."""

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from portraitgen.media.files import replace_file
from portraitgen.media.public_weights import file_digest
from portraitgen.metrics.estimate import Estimate
from portraitgen.metrics.saved import finite
from portraitgen.metrics.scores import MetricInfo
from portraitgen.training.checkpoint import LastCheckpoint
from portraitgen.training.export import WeightsExport
from portraitgen.training.learner import Learner
from portraitgen.training.trainer_state import find_callback

log = logging.getLogger(__name__)

LIST = "best.json"
"""Figure → step, value and SHA-256 of its file; in the folder of the graded rounds."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best round by a figure: `missing` values that it lacks, and the SHA-256 of its weights file."""

    step: int
    value: float
    missing: int
    sha256: str = ""


class BestWeights:
    """`best_<figure>.safetensors` beside the other weights of a run.

    A killed run goes on from its last checkpoint. A file that was the best one at that checkpoint is kept in
    reserve until a later one is saved, so that the resumed run has the file that its checkpoint knows.

    Args:
        figures: those that have a file, and what they are; of each one side is better.
        folder: of the graded rounds, where the list of the files lies.
    """

    def __init__(self, figures: Mapping[str, MetricInfo], folder: Path) -> None:
        self.figures = figures
        self.folder = folder
        self.standing: dict[str, Best] = {}
        self._reserved: dict[str, int] = {}

    @property
    def steps(self) -> set[int]:
        """Steps of the weights whose files are there."""
        return {best.step for best in self.standing.values()} | set(self._reserved.values())

    def update(
        self,
        trainer: Trainer,
        learner: Learner,
        estimates: Mapping[str, Estimate],
        facts: Mapping[str, Mapping[str, Any]],
    ) -> list[str]:
        """Write the files of the figures that are better than ever; every process calls it.

        Args:
            estimates: figure → that of the generated clips now, the same on all processes.
            facts: figure → how it is taken, for the file.

        Returns:
            The figures.
        """
        better = [
            name
            for name, metric in self.figures.items()
            if name in estimates and is_better(metric, self.standing.get(name), estimates[name])
        ]
        exported = find_callback(trainer, WeightsExport)
        assert exported is not None, "the settings are checked"
        self._drop_reserves(trainer)
        for name in better:
            figure, path = estimates[name], self._path(exported, name)
            if trainer.is_global_zero:
                self._reserve(trainer, name, path)
            graded = {
                "figure": name,
                "value": figure.mean,
                "interval": [finite(bound) for bound in figure.interval],
                **facts[name],
            }
            exported.save(trainer, learner, path, more={"graded": graded})
            digest = file_digest(path) if trainer.is_global_zero else ""
            digest = trainer.strategy.broadcast(digest)
            self.standing[name] = Best(trainer.global_step, figure.mean, figure.num_missing, digest)
        if better and trainer.is_global_zero:
            self._list()
        return better

    def resume(self, trainer: Trainer) -> None:
        """Make the files those that the checkpoint knows, before the run goes on; every process calls it."""
        exported = find_callback(trainer, WeightsExport)
        assert exported is not None, "the settings are checked"
        if trainer.is_global_zero:
            for name in self.figures:
                self._restore(name, self._path(exported, name))
            if self.standing or (self.folder / LIST).exists():
                self._list()
        self.standing = trainer.strategy.broadcast(self.standing)

    def end(self, trainer: Trainer) -> None:
        """Remove what no checkpoint knows any more."""
        self._drop_reserves(trainer)

    def forget(self) -> None:
        """Begin anew: what was the best before does not compare."""
        self.standing = {}

    def state_dict(self) -> dict[str, Any]:
        return {name: asdict(best) for name, best in self.standing.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.standing = {name: Best(**best) for name, best in state.items() if name in self.figures}

    def _path(self, exported: WeightsExport, name: str) -> Path:
        return exported.folder / f"best_{name}.safetensors"

    def _reserve(self, trainer: Trainer, name: str, path: Path) -> None:
        """Keep the file that is about to be replaced, if the last checkpoint knows it."""
        best, checkpoint = self.standing.get(name), find_callback(trainer, LastCheckpoint)
        if best is None or checkpoint is None or best.step > checkpoint.settle() or not path.is_file():
            return
        reserve = _reserve_of(path)
        reserve.parent.mkdir(exist_ok=True)
        os.replace(path, reserve)
        self._reserved[name] = best.step

    def _drop_reserves(self, trainer: Trainer) -> None:
        """Those that a newer checkpoint does without."""
        exported = find_callback(trainer, WeightsExport)
        checkpoint = find_callback(trainer, LastCheckpoint)
        if not self._reserved or exported is None or checkpoint is None:
            return
        saved_step = checkpoint.settle()
        for name in [*self._reserved]:
            best = self.standing.get(name)
            if best is None or best.step <= saved_step:
                _remove(_reserve_of(self._path(exported, name)))
                del self._reserved[name]

    def _restore(self, name: str, path: Path) -> None:
        best, reserve = self.standing.get(name), _reserve_of(path)
        found = next(
            (
                each
                for each in (path, reserve)
                if best is not None and each.is_file() and file_digest(each) == best.sha256
            ),
            None,
        )
        if found == reserve:
            os.replace(reserve, path)
        elif found is None:
            path.unlink(missing_ok=True)  # of steps that are made again
            if best is not None:
                log.warning(
                    "%s of step %d is gone or has changed: the best weights by %s are looked for anew",
                    *(path, best.step, name),
                )
                del self.standing[name]
        _remove(reserve)

    def _list(self) -> None:
        listed = {
            name: {"file": f"best_{name}.safetensors", **asdict(best)} for name, best in self.standing.items()
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.folder / LIST, (json.dumps(listed, indent=2) + "\n").encode())


def _reserve_of(path: Path) -> Path:
    return path.parent / "reserve" / path.name


def _remove(reserve: Path) -> None:
    """A file in reserve, and the folder with the last one."""
    reserve.unlink(missing_ok=True)
    if reserve.parent.is_dir() and not any(reserve.parent.iterdir()):
        reserve.parent.rmdir()


def is_better(metric: MetricInfo, best: Best | None, figure: Estimate) -> bool:
    """Whether a figure is better than that of the best round; a missing one never is.

    Fewer missing values come first: a mean over those frames alone that show a face says less.
    """
    if not math.isfinite(figure.mean):
        return False
    if best is None or figure.num_missing != best.missing:
        return best is None or figure.num_missing < best.missing
    return figure.mean > best.value if metric.higher_is_better else figure.mean < best.value


def named(figures: Sequence[str], metrics: Mapping[str, MetricInfo], setting: str) -> Iterator[str]:
    """A problem for each of `figures` that is not among `metrics`, or of which no side is better."""
    for name in figures:
        if name not in metrics:
            yield f"{setting}: no grader gives {name!r}; known are {', '.join(metrics)}"
        elif metrics[name].higher_is_better is None:
            yield f"{setting}: of {name!r} neither more nor less is better; take its distance from the truth"
