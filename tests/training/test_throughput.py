"""The clock that stands still while something else than training happens."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from portraitgen.training import throughput
from portraitgen.training.throughput import apart_from_training
from tests.training import toy


class Clock:
    """Goes on only when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds


def test_waiting_for_data_counts_and_other_work_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()

    class SlowLoader(toy.ToyLoader):
        def __iter__(self) -> Any:
            for batch in super().__iter__():
                clock.seconds += 1
                yield batch

    class SlowHooks(Callback):
        def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            clock.seconds += 3  # the training itself

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            with apart_from_training(trainer):
                clock.seconds += 50

        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            clock.seconds += 700

    monkeypatch.setattr(toy, "ToyLoader", SlowLoader)
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    toy.train(tmp_path, callbacks=[SlowHooks()], every_steps=6, trainer={"val_check_interval": 2})

    with (tmp_path / "metrics.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["perf/data_wait"])
    assert float(row["perf/samples_per_s"]) == pytest.approx(2 / 4)
    assert float(row["perf/frames_per_s"]) == pytest.approx(2 * toy.CLIP_FRAMES / 4)
    assert float(row["perf/data_wait"]) == pytest.approx(1 / 4)
    assert float(row["perf/max_memory_gb"]) > 0.05
