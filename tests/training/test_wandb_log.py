"""What W&B is told; it writes to the disk, without a network."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from portraitgen.training.wandb_log import ID_FILE, WandbLog, folder_id
from tests.training.wandb_server import WandbServer, wandb_server


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """W&B remembers the environment of its first use."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


class Run:
    """Keeps what W&B would get."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, Any]] = {}

    def log(self, metrics: dict[str, Any], *, step: int) -> None:
        assert step >= max(self.rows, default=0), "W&B drops rows of earlier steps"
        self.rows.setdefault(step, {}).update(metrics)


def test_the_id_belongs_to_the_folder(tmp_path: Path) -> None:
    """It was the run's name: two people's runs of one name were one run."""
    one, other = folder_id(tmp_path / "ann/first"), folder_id(tmp_path / "bob/first")
    assert one != other
    assert folder_id(tmp_path / "ann/first") == one == (tmp_path / "ann/first" / ID_FILE).read_text().strip()


def test_what_is_logged_of_a_step_is_one_row_by_that_step(tmp_path: Path) -> None:
    """Loss, gradients and speed were three rows, counted from 0 in each part of a resumed run."""
    log = WandbLog(save_dir=str(tmp_path), project="p", name="n", experiment=(run := Run()))
    log.log_metrics({"train/loss": 0.5}, step=10)
    log.log_metrics({"train/grad_norm": 1.0}, step=10)
    log.log_metrics({"train/loss": 0.25}, step=20)
    assert run.rows == {
        10: {"train/loss": 0.5, "train/grad_norm": 1.0, "trainer/global_step": 10},
        20: {"train/loss": 0.25, "trainer/global_step": 20},
    }


def test_without_an_api_key_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    log = WandbLog(save_dir=str(tmp_path), project="p", name="n", settings={"silent": True})
    with pytest.raises(
        ValueError, match=r"logger\.wandb: No API key.*`wandb login`.*WANDB_MODE=offline.*logger=csv"
    ):
        _ = log.experiment


@pytest.mark.skipif("WANDB_RUN_ID" in os.environ, reason="a run of W&B is going on")
def test_two_parts_without_a_network_are_of_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = []
    for step in (1, 2):
        log = WandbLog(save_dir=str(tmp_path), project="p", name="n", settings={"silent": True})
        log.log_hyperparams({"optimizer": {"lr": 0.1}})
        log.log_metrics({"loss": 1.0}, step=step)
        ids.append(log.experiment.id)
        assert log.experiment.config["optimizer"] == {"lr": 0.1}
        wandb.finish()
    assert ids[0] == ids[1] == folder_id(tmp_path)


@pytest.mark.skipif("WANDB_RUN_ID" in os.environ, reason="a run of W&B is going on")
def test_training_goes_on_when_the_process_of_wandb_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended in a traceback, and so did whatever was logged behind it, and the end of the run."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = {"save_dir": str(tmp_path), "project": "p", "name": "n", "settings": {"silent": True}}
    log = WandbLog(**settings)  # type: ignore[arg-type]
    log.log_metrics({"loss": 1.0}, step=1)
    children = psutil.Process().children(recursive=True)
    for process in [each for each in children if "wandb-core" in " ".join(each.cmdline())]:
        process.kill()
        process.wait()
    for step in range(2, 5):
        log.log_metrics({"loss": 1.0}, step=step)
        time.sleep(0.1)
    log.log_hyperparams({"optimizer": {"lr": 0.1}})
    log.finish()

    again = WandbLog(**settings)  # type: ignore[arg-type]
    again.log_metrics({"loss": 1.0}, step=5)
    assert again.experiment.id == folder_id(tmp_path)
    again.finish()
    ours = [each for each in caplog.records if each.name == "portraitgen.training.wandb_log"]
    (line,) = [record.getMessage() for record in ours]
    assert "W&B's process on this machine has ended" in line


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """One that runs on this machine may go online to."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with wandb_server() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        yield running


def logged_while_silent(server: WandbServer, folder: Path) -> WandbLog:
    """The log of a run whose server fell silent after the first row."""
    log = WandbLog(save_dir=str(folder), project="p", name="n", settings={"silent": True})
    log.log_metrics({"loss": 1.0}, step=1)
    server.silent = True
    begun = time.monotonic()
    for step in range(2, 5):
        log.log_metrics({"loss": 1.0}, step=step)
    assert time.monotonic() - begun < 3, "training is not held up"
    return log


@pytest.mark.skipif("WANDB_RUN_ID" in os.environ, reason="a run of W&B is going on")
def test_a_server_that_is_lost_is_not_waited_for_without_end(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of the run waited until somebody killed it."""
    monkeypatch.setattr("portraitgen.training.wandb_patience.SENT_WITHIN", 3.0)
    logged_while_silent(server, tmp_path).finish()
    ours = [each for each in caplog.records if each.name == "portraitgen.training.wandb_patience"]
    (line,) = [each.getMessage() for each in ours]
    (folder,) = (tmp_path / "wandb").glob("run-*")
    assert "W&B's server did not take all that was logged in time" in line
    assert f"`wandb sync {folder}`" in line
    assert [*folder.glob("*.wandb")]


@pytest.mark.skipif("WANDB_RUN_ID" in os.environ, reason="a run of W&B is going on")
def test_a_server_that_is_back_in_time_gets_all(
    server: WandbServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = logged_while_silent(server, tmp_path)
    time.sleep(0.5)
    server.silent = False
    log.finish()
    assert [row["trainer/global_step"] for row in server.rows] == [1, 2, 3, 4]
    assert not [each for each in caplog.records if each.name.startswith("portraitgen.training.wandb_")]
