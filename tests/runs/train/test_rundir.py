"""What a run directory says, and which changes of settings a resumed run refuses."""

import json
import os

import pytest
import yaml

from portraitgen.runs.train.rundir import RunDirectory

SETTINGS = {
    "model": {"network": {"width": 8}, "sampling": {"num_steps": 2}, "optimizer": {"lr": 0.1}},
    "data": {"batch_size": 2, "num_workers": 0},
    "stage": {"train": ["*"], "init_from": "a"},
    "optimizer": {"lr": 0.1},
    "lr_scheduler": None,
    "trainer": {"max_steps": 5, "precision": "32-true"},
    "seed": 0,
    "name": "run",
}


def changed(**changes):
    """SETTINGS with values replaced by dotted path (dots written as two underscores)."""
    settings = json.loads(json.dumps(SETTINGS))
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = settings
        for parent in parents:
            node = node[parent]
        node[last] = value
    return settings


@pytest.fixture
def run(tmp_path):
    """A run that was started with SETTINGS and has a checkpoint."""
    run = RunDirectory(tmp_path)
    run.record_start(SETTINGS, step=0, changes=[])
    run.last_checkpoint.parent.mkdir()
    run.last_checkpoint.touch()
    return run


def test_config_is_written_whole(run):
    assert yaml.safe_load(run.config.read_text()) == SETTINGS
    assert os.listdir(run.folder / "checkpoints") == ["last.ckpt"]
    assert not list(run.folder.glob(".*"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data__num_workers": 4},
        {"data__remote": {"cache": "elsewhere"}},
        {"trainer__max_steps": 10},
        {"stage__init_from": "b"},
        {"model__sampling__num_steps": 50},
        {"name": "other"},
    ],
)
def test_free_changes_resume(run, changes):
    run.changes(changed(**changes), allowed=False)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model__network__width": 16}, "model.network.width: 8 → 16"),
        ({"data__batch_size": 4}, "data.batch_size: 2 → 4"),
        ({"data__stride": 2}, "data.stride: (not set) → 2"),
        ({"stage__train": ["a.*"]}, "stage.train: ['*'] → ['a.*']"),
        ({"seed": 1}, "seed: 0 → 1"),
        ({"callbacks": {"ema": {"decay": 0.5}}}, "callbacks.ema.decay: (not set) → 0.5"),
        ({"lr_scheduler": {"warmup_steps": 3}}, "lr_scheduler.warmup_steps: (not set) → 3"),
        ({"trainer__precision": "bf16-mixed"}, "trainer.precision: 32-true → bf16-mixed"),
    ],
)
def test_changes_that_shape_the_result_are_refused(run, changes, line):
    with pytest.raises(ValueError, match="started with other settings") as error:
        run.changes(changed(**changes), allowed=False)
    assert f"\n  {line}\n" in str(error.value)


def test_several_changes_are_listed_at_once_and_the_group_counts_once(run):
    settings = changed(optimizer__lr=0.2, model__optimizer__lr=0.2, data__batch_size=8)
    with pytest.raises(ValueError) as error:
        run.changes(settings, allowed=False)
    assert str(error.value).count("→") == 2


def test_what_an_earlier_start_left_is_moved_out_of_the_way(run):
    """Its weights were once taken for the run's own: "nothing to do", and stage 2 started from them."""
    run.weights.mkdir()
    (run.weights / "last.safetensors").touch()
    (run.folder / "metrics.csv").touch()
    run.begin_anew()
    assert sorted(os.listdir(run.folder)) == ["checkpoints", "earlier"]
    assert sorted(os.listdir(run.folder / "earlier/1")) == [
        *("config.yaml", "metrics.csv", "versions.json", "weights")
    ]
    run.weights.mkdir()
    (run.weights / "last.safetensors").touch()
    run.begin_anew()
    assert sorted(os.listdir(run.folder / "earlier")) == ["1", "2"]


def test_rows_of_a_start_that_came_to_no_weights_are_removed(run):
    (run.folder / "metrics.csv").touch()
    run.begin_anew()
    assert sorted(os.listdir(run.folder)) == ["checkpoints", "config.yaml", "versions.json"]


def test_the_last_value_of_a_metric(tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(ValueError, match="optimized_metric=val/loss"):
        run.last_metric("val/loss")
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/loss\n1,0.9,\n2,0.8,0.5\n3,0.7,\n")
    assert run.last_metric("val/loss") == 0.5
    assert run.last_metric("train/loss") == 0.7


def test_versions_gain_an_entry_at_each_start(tmp_path):
    run = RunDirectory(tmp_path)
    run.record_start({}, step=0, changes=[])
    run.record_start({}, step=7, changes=["seed: 0 → 1"])
    starts = json.loads(run.versions.read_text())
    assert len(starts) == 2
    assert starts[0]["packages"]["torch"]
    plain = {"started", "command", "python", "packages", "commit", "dirty"}
    assert set(starts[0]) == {*plain, "from_step", "changes"}
    assert (starts[1]["from_step"], starts[1]["changes"]) == (7, ["seed: 0 → 1"])


def test_the_settings_of_the_steps_before_a_change_stay(run):
    (line,) = run.changes(changed(optimizer__lr=0.2), allowed=True)
    assert line == "optimizer.lr: 0.1 → 0.2"
    run.record_start(changed(optimizer__lr=0.2), step=5, changes=[line])
    assert yaml.safe_load(run.config.read_text())["optimizer"]["lr"] == 0.2
    until = run.folder / "config.until_step_00000005.yaml"
    assert yaml.safe_load(until.read_text()) == SETTINGS


@pytest.mark.parametrize("changes", [{"model__network__width": 16}, {"stage__train": ["a.*"]}])
def test_what_no_resumed_run_can_apply_is_refused_even_if_changes_are_allowed(run, changes):
    with pytest.raises(ValueError, match="A run cannot change these") as error:
        run.changes(changed(**changes), allowed=True)
    assert "allow_config_change" not in str(error.value)


def test_losses_are_part_of_what_a_run_is(run):
    """A run from before there were any goes on; another loss is another run."""
    run.changes({**SETTINGS, "losses": {}}, allowed=False)
    run.record_start({**SETTINGS, "losses": {"identity": {"weight": 0.1}}}, step=0, changes=[])
    with pytest.raises(ValueError, match=r"losses\.identity\.weight: 0\.1 → 0\.2"):
        run.changes({**SETTINGS, "losses": {"identity": {"weight": 0.2}}}, allowed=False)
    with pytest.raises(ValueError, match=r"losses\.identity\.weight: 0\.1 → \(not set\)"):
        run.changes({**SETTINGS, "losses": {}}, allowed=False)
