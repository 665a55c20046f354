"""metrics.csv, also when the run is interrupted."""

import csv
from pathlib import Path

import pytest

from portraitgen.training.run_log import CsvLog


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_of_a_step_share_a_row_and_are_there_at_once(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "run")
    log.log_metrics({"loss": 0.5}, step=10)
    assert read(tmp_path / "run") == [{"step": "10", "loss": "0.5"}]
    log.log_metrics({"speed": 2}, step=10)
    log.log_metrics({"loss": 0.25}, step=20)
    log.log_metrics({"val, loss": 1e-7}, step=20)
    assert read(tmp_path / "run") == [
        {"step": "10", "loss": "0.5", "speed": "2.0", "val, loss": ""},
        {"step": "20", "loss": "0.25", "speed": "", "val, loss": "1e-07"},
    ]


def test_numbers_survive_exactly(tmp_path: Path) -> None:
    CsvLog(tmp_path).log_metrics({"x": 1 / 3}, step=1)
    assert float(read(tmp_path)[0]["x"]) == 1 / 3


def test_a_resumed_run_replaces_what_its_checkpoint_did_not_know(tmp_path: Path) -> None:
    killed = CsvLog(tmp_path)
    for step in (10, 20, 30, 40):
        killed.log_metrics({"loss": float(step), "old": 1}, step=step)
    resumed = CsvLog(tmp_path)
    resumed.log_metrics({"loss": -3.0}, step=30)
    resumed.log_metrics({"loss": -4.0, "new": 0}, step=40)
    assert [(row["step"], row["loss"], row["old"], row["new"]) for row in read(tmp_path)] == [
        ("10", "10.0", "1.0", ""),
        ("20", "20.0", "1.0", ""),
        ("30", "-3.0", "", ""),
        ("40", "-4.0", "", "0.0"),
    ]


def test_the_row_of_the_checkpoint_stays_whole(tmp_path: Path) -> None:
    """What is logged of its step after a resume, such as a validation, once replaced the loss there."""
    killed = CsvLog(tmp_path)
    for step in (10, 20, 30):
        killed.log_metrics({"loss": float(step)}, step=step)
    resumed = CsvLog(tmp_path)
    resumed.resume_at(20)
    assert resumed.has(20, "lo")
    assert not resumed.has(20, "val/")
    resumed.log_metrics({"val/loss": 0.5}, step=20)
    assert [tuple(row.values()) for row in read(tmp_path)] == [("10", "10.0", ""), ("20", "20.0", "0.5")]


def test_steps_do_not_go_back(tmp_path: Path) -> None:
    log = CsvLog(tmp_path)
    log.log_metrics({"loss": 1}, step=2)
    with pytest.raises(ValueError, match="step 1 come after those of step 2"):
        log.log_metrics({"loss": 1}, step=1)
