"""Each trial of a sweep lies in a folder of its own, and its end is a table of them."""

import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from portraitgen.data.shards import ShardWriter
from portraitgen.metrics.report.report import write_results
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.train.trials import SWEPT, SweepTable, sweep_words, trial_overrides
from tests.command_line import run_command
from tests.metrics.report.html_page import Page
from tests.metrics.report.stranger_pages import graded
from tests.synthetic import synthetic_clip


def folder_of(*overrides: str) -> str:
    """Where Hydra puts the trial with these overrides."""
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*overrides], return_hydra_config=True)
    return str(config.hydra.sweep.subdir)


@pytest.mark.parametrize(
    "swept", ["data.shards=a.tar,b.tar", "experiment=aniportrait/tiny_stage1,aniportrait/tiny_stage2"]
)
def test_trials_that_differ_lie_apart(monkeypatch: pytest.MonkeyPatch, swept: str) -> None:
    """Both trials of two data sets were one folder with two writers."""
    monkeypatch.setenv(SWEPT, "")
    sweep_words(["-m", swept, "seed=1"])
    key, _, values = swept.partition("=")
    fixed = ["seed=1"] if key == "experiment" else ["seed=1", "experiment=aniportrait/tiny_stage1"]
    folders = [folder_of(*fixed, f"{key}={value}") for value in values.split(",")]
    assert len({*folders}) == 2
    assert all("seed=1" in folder for folder in folders)


def test_what_all_trials_share_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWEPT, "")
    words = ["experiment=x", "data.shards=a.tar", "optimizer.lr=1e-5,3e-5"]
    sweep_words(words)
    assert trial_overrides(["experiment=x", "data.shards=a.tar", "optimizer.lr=1e-5"]) == "optimizer.lr=1e-5"


def test_experiments_can_be_swept_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of them there is no model and no data, whose settings then had no place."""
    monkeypatch.setenv(SWEPT, "")
    words = [
        "-m",
        "experiment=x,y",
        "data.shards='a b.tar'",
        "seed=1",
        "hydra.job.num=1",
        "stage.train=[a,b]",
    ]
    assert sweep_words(words) == [
        *("-m", "experiment=x,y", "data.shards=choice('a b.tar')", "seed=1", "hydra.job.num=1"),
        "stage.train=choice([a,b])",
    ]
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["seed=1"], return_hydra_config=True)
    assert config.hydra.sweep.dir == "runs/sweeps/several"


def test_null_may_be_swept_with_experiments(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model had been chosen whose setting it could be."""
    monkeypatch.setenv(SWEPT, "")
    words = sweep_words(["-m", "experiment=x,y", "data.examples.masks=null"])
    assert words == ["-m", "experiment=x,y", "++data.examples.masks=null"]


def test_the_table_names_once_what_all_trials_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SweepTable, "_begun", (tmp_path, 0.0))
    for name in ("a/lr=1,max_steps=2,seed=0", "a/lr=2,max_steps=2,seed=0", "b/lr=1,max_steps=2,seed=0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "train.rank0.log").touch()
    shared, _, *rows = SweepTable.lines()
    assert shared == "all trials: max_steps=2, seed=0"
    assert [row.split()[0] for row in rows] == ["a/lr=1", "a/lr=2", "b/lr=1"]


@pytest.mark.slow
def test_a_sweep_over_experiments_runs_to_its_table(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SweepTable, "_begun", None)
    with ShardWriter(tmp_path, "train") as writer:
        writer.write(synthetic_clip("face", num_frames=24, size=64, seed=0))
    shards = tmp_path / "shards/train-000000.tar"
    words = [f"data.shards={shards}", "trainer.max_steps=2", "data.batch_size=1", "data.val_samples=1"]
    words += ["sampling.num_steps=1", "data.examples.masks=null"]
    assert run_command("train.py", "experiment=aniportrait/tiny_stage1", *words, folder=tmp_path) == 0
    experiments = "experiment=aniportrait/tiny_stage1,aniportrait/tiny_stage2"
    assert run_command("train.py", "-m", experiments, *words, folder=tmp_path) == 0
    *_, header, one, two = capfd.readouterr().err.splitlines()
    assert header.split() == ["trial", "step", "train/loss", "state"]
    for row, stage in ((one, "tiny_stage1"), (two, "tiny_stage2")):
        assert row.startswith(f"aniportrait/{stage}/experiment=aniportrait-{stage}  ")
        assert row.split()[1] == "2"
        assert row.endswith("ended")


def test_the_table_tells_what_came_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SweepTable, "_begun", None)
    assert SweepTable.lines() == []
    SweepTable().on_multirun_start(OmegaConf.create({"paths": {"runs": str(tmp_path)}}))
    # After ours come more lines of an error, and those of submitit, which saw that the error was seen to.
    error = "[t][portraitgen.x][ERROR] the loss is not finite\n  lower it\n[t][submitit][INFO] Job completed"
    for name, last in (("lr=1", "fine"), ("lr=2", error)):
        folder = tmp_path / "sweeps/exp" / name
        folder.mkdir(parents=True)
        (folder / "train.rank0.log").write_text(f"begun\n{last}\n")
    (tmp_path / "sweeps/exp/lr=1/metrics.csv").write_text("step,train/loss,val/loss\n1,0.9,0.8\n2,0.5,\n")
    header, *rows = [line.split() for line in SweepTable.lines()]
    assert header == ["trial", "step", "train/loss", "val/loss", "state"]
    assert rows == [["exp/lr=1", "2", "0.5", "0.8", "ended"], ["exp/lr=2", "0", "failed"]]
    monkeypatch.setattr(SweepTable, "_begun", (tmp_path / "sweeps", time.time() + 60))
    assert SweepTable.lines() == []


def test_two_figures_make_a_page_with_the_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Identity up, copy-paste down; of a graded figure the rounds of the trials say which side is better."""
    monkeypatch.setattr(SweepTable, "_begun", None)
    monkeypatch.setattr(SweepTable, "_folder", None)
    sweep = {"dir": str(tmp_path / "sweeps/exp")}
    SweepTable().on_multirun_start(
        OmegaConf.create({"paths": {"runs": str(tmp_path)}, "hydra": {"sweep": sweep}})
    )
    for name, psnr, error in (("lr=1", 20.0, 0.5), ("lr=2", 22.0, 0.9), ("lr=3", 19.0, 0.6)):
        folder = tmp_path / "sweeps/exp" / name
        write_results(graded("a"), folder / "graded/step_00000002")
        (folder / "train.rank0.log").touch()
        (folder / "config.yaml").write_text("optimized_metric: [grade/psnr, grade/landmark_error]\n")
        columns = "step,grade/psnr,grade/psnr.low,grade/psnr.high,grade/landmark_error"
        (folder / "metrics.csv").write_text(f"{columns}\n2,{psnr},{psnr - 1},{psnr + 1},{error}\n")
    page = SweepTable.lines()[-1]
    assert page == str(tmp_path / "sweeps/exp/trials.html")
    shown = Page(Path(page).read_text())
    assert [circle["cx"] for circle in shown.all("circle")]
    text = Path(page).read_text()
    assert text.count("on the front") == 2, "lr=3 is beaten by lr=1 in both"
    assert "20.00" in text


def test_a_figure_without_a_better_side_makes_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sweeps/exp/lr=1"
    folder.mkdir(parents=True)
    (folder / "train.rank0.log").touch()
    (folder / "config.yaml").write_text("optimized_metric: perf/samples_per_s\n")
    monkeypatch.setattr(SweepTable, "_begun", (tmp_path / "sweeps", 0.0))
    monkeypatch.setattr(SweepTable, "_folder", tmp_path / "sweeps/exp")
    assert SweepTable.lines()[-1].startswith("exp/lr=1")
