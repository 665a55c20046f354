"""Metrics of a run: into all loggers at the optimizer step, and a CSV file that a resumed run continues."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from portraitgen.media.files import replacing, writable_folder


def log_metrics(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Hand `metrics` of the step that just ended to every logger; all ranks may, rank 0's values count.

    Unlike `LightningModule.log` it does nothing in the steps between.
    """
    for logger in trainer.loggers:
        logger.log_metrics({**metrics, "epoch": trainer.current_epoch}, step=trainer.global_step)


def csv_logs(trainer: Trainer) -> "list[CsvLog]":
    """The files among the trainer's loggers."""
    return [logger for logger in trainer.loggers if isinstance(logger, CsvLog)]


def resume_logs(trainer: Trainer, step: int) -> None:
    """Let what is logged of the step that a run resumes from go into the row that is there of it."""
    for log in csv_logs(trainer):
        log.resume_at(step)


class CsvLog(Logger):
    """`metrics.csv`: one row an optimizer step that logged something, one column a metric.

    A row is on its way to the disk as soon as it is logged. A run that was killed has logged steps after
    its last checkpoint: the resumed run's first row removes those, so that the file is that of an
    uninterrupted run.

    Args:
        folder: of the file.
    """

    FILE_NAME = "metrics.csv"

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        self.path = Path(folder) / self.FILE_NAME
        self._step: int | None = None
        self._resumed_at: int | None = None
        self._columns: list[str] = []
        self._row: dict[str, str] = {}
        self._row_start = 0

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @property
    def columns(self) -> list[str]:
        """Names of all that was logged, or that an earlier start of the run logged."""
        return list(self._columns)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add `metrics` to the row of `step`, which must not be before the last row's.

        Raises:
            ValueError: it is, or there is no step.
        """
        first = self._step is None
        if step is None or (self._step is not None and step < self._step):
            raise ValueError(f"metrics of step {step} come after those of step {self._step}")
        if first:
            writable_folder(self.path.parent)
        if step != self._step:
            self._step, self._row = step, {"step": str(step)}
            self._row_start = 0 if first else self.path.stat().st_size
        self._row |= {name: repr(float(value)) for name, value in metrics.items()}
        if first or not self._row.keys() <= set(self._columns):
            self._rewrite(step)
            return
        # Within a step the row only grows, so it is written over itself: it is never not there.
        with self.path.open("r+b") as file:
            file.seek(self._row_start)
            file.write(self._line(self._row))

    def resume_at(self, step: int) -> None:
        """Keep the row of this step, whose checkpoint a run goes on from, with what it has."""
        self._resumed_at = step

    def has(self, step: int, prefix: str) -> bool:
        """Whether the row of `step` has a value of a metric whose name begins so."""
        return any(int(row["step"]) == step and _has(row, prefix) for row in self._rows())

    def _rows(self) -> list[dict[str, str]]:
        """Those that are there; damaged ones are not."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
            return [row for row in csv.DictReader(file) if _is_sound(row)]

    def _rewrite(self, step: int) -> None:
        """The file anew, with all columns: the rows before `step`, whoever wrote them, and this one."""
        there = self._rows()
        rows = [row for row in there if int(row["step"]) < step]
        self._columns = list(there[0]) if there else self._columns
        if step == self._resumed_at:
            same = next((row for row in there if int(row["step"]) == step), {})
            self._row = {name: value for name, value in same.items() if value} | self._row
        self._columns += [name for name in self._row if name not in self._columns]
        header = dict(zip(self._columns, self._columns, strict=True))
        before = b"".join(self._line(row) for row in (header, *rows))
        with replacing(self.path) as temporary:
            temporary.write_bytes(before + self._line(self._row))
        self._row_start = len(before)

    def _line(self, row: Mapping[str, str]) -> bytes:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerow(row)
        return text.getvalue().encode()


def _has(row: Mapping[str, str], prefix: str) -> bool:
    return any(name.startswith(prefix) and value for name, value in row.items())


def _is_sound(row: Mapping[str | None, str | None]) -> bool:
    """Whether a row has a step, and no more cells than the file has columns."""
    return None not in row and re.fullmatch(r"[0-9]{1,15}", row.get("step") or "") is not None
