"""The figure that a sweep looks at: whether a run logs it is known long before the run ends."""

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

from portraitgen.runs.config.sought import is_graded
from portraitgen.runs.config.targets import did_you_mean
from portraitgen.training.grading import Grading, column_names
from portraitgen.training.run_log import CsvLog


def require_graded(names: Sequence[str], grading: Grading | None) -> None:
    """ValueError for the first of these figures that is graded, but not by this run."""
    known = [] if grading is None else column_names(grading.metrics)
    for name in names:
        if is_graded(name) and name not in known:
            raise ValueError(
                f"optimized_metric: no grader of callbacks.grading.metrics gives {name}"
                f"{did_you_mean(name, known)}; known are {', '.join(grading.metrics if grading else ())}"
            )


class OptimizedMetric(Callback):
    """Ends a run that does not log the figure: after the first validation, or once all else was logged.

    Args:
        name: of the figure, such as val/loss.
        every_steps: optimizer steps between rows of the log.

    Raises:
        ValueError: at that time, on all processes; it lists what is logged.
    """

    def __init__(self, name: str, *, every_steps: int) -> None:
        self.name = name
        # What is a rate, or a mean over steps, comes with the second row.
        self.known_at_step = 2 * every_steps
        self._is_known = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if not self.name.startswith("val/") and trainer.global_step >= self.known_at_step:
            self._check(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.name.startswith("val/"):
            self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        if self._is_known:
            return
        logged = [name for each in trainer.loggers if isinstance(each, CsvLog) for name in each.columns]
        # Only the first process has a log.
        logged = trainer.strategy.broadcast(logged)
        self._is_known = self.name in logged
        if not self._is_known:
            figures = sorted(name for name in logged if "/" in name)
            raise ValueError(
                f"optimized_metric: {self.name} is not among what this run logs ({', '.join(figures)})"
                f"{did_you_mean(self.name, figures)}"
            )
