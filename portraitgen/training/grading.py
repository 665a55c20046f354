"""Figures of generated clips while training: they are logged, choose the best weights, and may end a run."""

import logging
import math
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from portraitgen.media.files import writable_folder
from portraitgen.metrics.checks import Check
from portraitgen.metrics.estimate import Estimate
from portraitgen.metrics.report.report import write_results
from portraitgen.metrics.results import Results
from portraitgen.metrics.saved import protocol_json
from portraitgen.metrics.scores import COPY_NEAREST, COPY_REFERENCE, GENERATED, METHODS, MetricInfo
from portraitgen.training.best_weights import Best, BestWeights, is_better, named
from portraitgen.training.figure_names import GRADED
from portraitgen.training.generator import Generator
from portraitgen.training.preemption import Preemption
from portraitgen.training.run_log import log_metrics
from portraitgen.training.throughput import apart_from_training
from portraitgen.training.trainer_state import find_callback, is_due, positive

log = logging.getLogger(__name__)

CONTROLS = (COPY_REFERENCE, COPY_NEAREST)


class RoundAbandoned(Exception):
    """A signal has come in the middle of a round; it is made when the run goes on."""


_STEP = re.compile(r"step_(\d{8,})")


class Grading(Callback, ABC):
    """Every so many steps, and at the end, clips are generated with averaged weights and graded.

    A round has a folder `step_<step>` with results.json, and of the best rounds and the last one the clips.
    The log has `grade/<figure>` of the generated clips, `….low` and `….high` of its interval, `….truth` and
    `….copy_reference` of controls, and `….beaten`, 1 where a control is better.

    Of figures that are missing in some frames or clips (no face was found) rounds with fewer missing values
    are better, then the mean decides.

    A round may take longer than a cluster waits between signal and kill. So a signal ends it between two
    clips, the step is saved, and the round is made when the run goes on, of the same weights and before the
    next step; only that of the last step is finished.

    Args:
        folder: of the rounds.
        metrics: what is graded, by figure.
        every_steps: optimizer steps between rounds.
        best: figures of which the best weights are kept, as `weights/best_<figure>.safetensors`.
        stop_by: figure that ends the run once it has not become better for `patience` rounds; None: none.
        patience: rounds.

    Raises:
        ValueError: a setting is out of range, or no grader gives a figure that it names.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        metrics: Mapping[str, MetricInfo],
        every_steps: int,
        best: Sequence[str] = (),
        stop_by: str | None = None,
        patience: int = 5,
    ) -> None:
        self.folder = Path(folder)
        self.metrics = metrics
        self.every_steps = positive("callbacks.grading.every_steps", every_steps)
        self.patience = positive("callbacks.grading.patience", patience)
        stops = [] if stop_by is None else [stop_by]
        problems = [
            *named(best, metrics, "callbacks.grading.best"),
            *named(stops, metrics, "callbacks.grading.stop_by"),
        ]
        if problems:
            raise ValueError("\n  ".join(problems))
        self.stop_by = stop_by
        self.best = BestWeights({name: metrics[name] for name in best}, self.folder)
        self._leader: Best | None = None
        self._rounds_without = 0
        self._stopped = False
        self._protocol = ""
        self._owed = False
        self._begin = 0.0
        self._seconds = 0.0

    @abstractmethod
    def grade(self, trainer: Trainer, module: Generator, folder: Path) -> Results:
        """Generate clips into `folder` and grade them; every process calls it and gets all results.

        The weights of `module` are those that train: an implementation puts averages in their place. It
        leaves all random states as they are, and calls `mind_signals` between clips, whose RoundAbandoned
        leaves nothing behind but what lies in `folder`.
        """

    @abstractmethod
    def drop_clips(self, folder: Path) -> None:
        """Remove the clips of a round, and keep its results."""

    def mind_signals(self, trainer: Trainer) -> None:
        """Give up the round if a signal has come; every process must call it equally often.

        Raises:
            RoundAbandoned: it has, on one of them.
        """
        preemption = find_callback(trainer, Preemption)
        if preemption is not None and preemption.asked_amid_step(trainer):
            raise RoundAbandoned

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            writable_folder(self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin, self._seconds = time.perf_counter(), 0.0
        if trainer.is_global_zero:
            for step, folder in rounds(self.folder).items():
                if step > trainer.global_step:  # of a run that was killed behind its last checkpoint
                    shutil.rmtree(folder)
        self.best.resume(trainer)
        if self._stopped:
            log.info("the run was ended by %s before: nothing is left to do", self.stop_by)
            trainer.should_stop = True
        elif self._owed:
            if (preemption := find_callback(trainer, Preemption)) is not None:
                preemption.begin()
            self._grade_and_judge(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if is_due(trainer, self.every_steps):
            self._grade_and_judge(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.best.end(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best.state_dict(),
            "leader": None if self._leader is None else asdict(self._leader),
            "rounds_without": self._rounds_without,
            "stopped": self._stopped,
            "protocol": self._protocol,
            "owed": self._owed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best.load_state_dict(state_dict["best"])
        leader = state_dict["leader"]
        self._leader = None if leader is None else Best(**leader)
        self._rounds_without = state_dict["rounds_without"]
        self._stopped = state_dict["stopped"] and self.stop_by is not None
        self._protocol = state_dict["protocol"]
        self._owed = state_dict.get("owed", False)

    def _grade_and_judge(self, trainer: Trainer, module: LightningModule) -> None:
        """A round, unless a signal ends it."""
        assert isinstance(module, Generator)
        begin = time.perf_counter()
        with apart_from_training(trainer):
            folder = self.folder / f"step_{trainer.global_step:08d}"
            if trainer.is_global_zero and folder.exists():
                shutil.rmtree(folder)
            trainer.strategy.barrier()
            try:
                results = self.grade(trainer, module, folder)
            except RoundAbandoned:
                self._owed = True
                if trainer.is_global_zero:
                    shutil.rmtree(folder, ignore_errors=True)
                log.info("step %d is graded when the run goes on: a signal has come", trainer.global_step)
                return
            self._owed = False
            better = self._judge(trainer, module, results)
            if trainer.is_global_zero:
                write_results(results, folder)
                kept = self.best.steps | {trainer.global_step}
                for step, each in rounds(self.folder).items():
                    if step not in kept:
                        self.drop_clips(each)
        seconds = time.perf_counter() - begin
        self._log(trainer, results, better, seconds)

    def _judge(self, trainer: Trainer, module: Generator, results: Results) -> list[str]:
        """Keep the weights of the figures that are better than ever, and see whether to go on."""
        protocol = protocol_json(results)
        if self._protocol not in ("", protocol["fingerprint"]):
            log.warning("figures are taken otherwise than before: what is best is looked for anew")
            self.best.forget()
            self._leader = None
        self._protocol = protocol["fingerprint"]
        estimates = results.estimates[GENERATED]
        facts = {
            name: {
                "definition": results.metrics[name].definition,
                "grader": protocol["graders"].get(name, {}),
                "protocol": protocol["fingerprint"],
            }
            for name in self.best.figures
        }
        better = self.best.update(trainer, module, estimates, facts)
        if self.stop_by is not None:
            self._watch(trainer, estimates.get(self.stop_by))
        return better

    def _watch(self, trainer: Trainer, figure: Estimate | None) -> None:
        """End the run where the figure that it is ended by has not become better for long."""
        assert self.stop_by is not None
        if figure is not None and is_better(self.metrics[self.stop_by], self._leader, figure):
            self._leader = Best(trainer.global_step, figure.mean, figure.num_missing)
            self._rounds_without = 0
            return
        self._rounds_without += 1
        if self._rounds_without >= self.patience and not self._stopped:
            since = "there was none" if self._leader is None else f"it was best at step {self._leader.step}"
            log.info(
                "ended at step %d: %s has not become better for %d rounds, %s",
                *(trainer.global_step, self.stop_by, self.patience, since),
            )
            self._stopped = trainer.should_stop = True

    def _log(self, trainer: Trainer, results: Results, better: Sequence[str], seconds: float) -> None:
        self._seconds += seconds
        share = self._seconds / (time.perf_counter() - self._begin)
        log_metrics(
            trainer, {**logged_figures(results), "perf/grading_s": seconds, "perf/grading_share": share}
        )
        if not trainer.is_global_zero:
            return
        figures = [
            f"{name} {results.metrics[name].show(figure.mean, unit=True)}"
            f"{_said_of_best(figure) if name in better else ''}"
            for name, figure in results.estimates[GENERATED].items()
            if math.isfinite(figure.mean)
        ]
        log.info(
            "step %d graded in %.1f s (%.1f %% of the time so far): %s",
            *(trainer.global_step, seconds, 100 * share, ", ".join(figures) or "no figure could be taken"),
        )
        if beaten := beaten_figures(results):
            controls = [f"{name} ({', '.join(by)})" for name, by in beaten.items()]
            log.info("step %d: a control is better by %s", trainer.global_step, "; ".join(controls))


def _said_of_best(figure: Estimate) -> str:
    """That a figure is better than ever, and of how much it tells where some of it is missing."""
    if not figure.num_missing:
        return " (best)"
    total = figure.num_present + figure.num_missing
    return f" (best, by {figure.num_present} of {total} {figure.units})"


def logged_figures(results: Results) -> dict[str, float]:
    """Columns of the log; of what is missing there is none."""
    columns: dict[str, float] = {}
    beaten = beaten_figures(results)
    for name, metric in results.metrics.items():
        for method in METHODS:
            figure = results.estimates.get(method, {}).get(name)
            if figure is None or not math.isfinite(figure.mean):
                continue
            if method != GENERATED:
                columns[f"{GRADED}{name}.{method}"] = figure.mean
                continue
            columns[f"{GRADED}{name}"] = figure.mean
            for bound, value in zip(("low", "high"), figure.interval, strict=True):
                if math.isfinite(value):
                    columns[f"{GRADED}{name}.{bound}"] = value
            if metric.higher_is_better is not None:
                columns[f"{GRADED}{name}.beaten"] = float(name in beaten)
    return columns


def column_names(metrics: Mapping[str, MetricInfo]) -> list[str]:
    """All columns that the log may have."""
    ends = ["", ".low", ".high", ".beaten", *(f".{method}" for method in METHODS if method != GENERATED)]
    return [f"{GRADED}{name}{end}" for name in metrics for end in ends]


def control_checks(metrics: Mapping[str, MetricInfo]) -> list[Check]:
    """That the generated clips are better than the controls, by each figure of which one side is better."""
    return [
        Check(name, control, required=False)
        for name, metric in metrics.items()
        if metric.higher_is_better is not None
        for control in CONTROLS
    ]


def beaten_figures(results: Results) -> dict[str, list[str]]:
    """Figure → the controls that are better than the generated clips by it, each with its value."""
    found: dict[str, list[str]] = {}
    for verdict in results.verdicts:
        name, control = verdict.check.metric, verdict.check.against
        if verdict.gain < 0 and verdict.check.margin == 0:
            value = results.metrics[name].show(results.estimates[control][name].mean, unit=True)
            found.setdefault(name, []).append(f"{control} {value}")
    return found


def rounds(folder: Path) -> dict[int, Path]:
    """The folders of graded rounds by step, in their order."""
    found = {int(match[1]): path for path in folder.glob("step_*") if (match := _STEP.fullmatch(path.name))}
    return dict(sorted(found.items()))
