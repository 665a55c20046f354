"""A run from its configuration to its files; what keeps it from starting, said before anything is built."""

import csv
import itertools
import json
import os
import shutil
import sys

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors import safe_open

from portraitgen.data.datamodule import ShardDataModule
from portraitgen.data.shards import ShardWriter
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.system import load_system
from portraitgen.runs.train.train import _model, train
from portraitgen.training.sharding import on_meta
from portraitgen.training.weights import load_weights
from tests.synthetic import synthetic_clip

QUICK = [
    "trainer.max_steps=2",
    "callbacks.samples.num_clips=1",
    "data.val_samples=1",
    "data.batch_size=1",
    "sampling.num_steps=1",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A shard with two drawn faces."""
    root = tmp_path_factory.mktemp("data")
    with ShardWriter(root, "train") as writer:
        for seed in range(2):
            writer.write(synthetic_clip(f"face{seed}", num_frames=16, size=64, seed=seed))
    return root / "shards" / "train-000000.tar"


@pytest.fixture
def config(shards, tmp_path):
    """Composes a tiny run in a folder of its own."""

    def config(*overrides, experiment="aniportrait/tiny_stage1"):
        register_configs()
        given = [f"experiment={experiment}", f"data.shards={shards}", f"paths.runs={tmp_path}"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", [*given, *QUICK, *overrides])

    return config


@pytest.fixture
def deterministic():
    """Leave PyTorch as it was: a tiny run asks for deterministic algorithms."""
    yield
    torch.use_deterministic_algorithms(False)


pytestmark = pytest.mark.usefixtures("deterministic")


@pytest.fixture
def run(config, tmp_path):
    """A finished stage 1."""
    train(config())
    return tmp_path / "aniportrait/tiny_stage1"


def test_a_run_leaves_what_others_need(run, shards):
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["shards"] == str(shards)
    assert len(json.loads((run / "versions.json").read_text())) == 1
    assert sorted(each.name for each in (run / "weights").iterdir()) == [
        "last.safetensors",
        "step_00000002.safetensors",
    ]
    assert (run / "samples/step_00000002.png").is_file()
    with (run / "metrics.csv").open() as file:
        assert len(file.readlines()) == 3
    with safe_open(run / "weights/last.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["portraitgen"])
    assert facts["system"] == "aniportrait"
    assert facts["step"] == 2
    assert facts["config"]["_target_"].endswith("AniPortrait")
    assert "${" not in json.dumps(facts)
    assert not [name for _, _, names in os.walk(run) for name in names if name.startswith(".")]


def test_the_checkpoint_holds_no_objects(run):
    torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def test_a_finished_run_is_left_alone(run, config):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    train(config())
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_run_whose_checkpoints_were_moved_away_starts_anew(run, config):
    """It has weights of its last step; they say nothing of a run that has not got there."""
    shutil.move(run / "checkpoints", run.parent / "moved")
    train(config("trainer.max_steps=1"))
    assert [path.name for path in sorted((run / "weights").iterdir())] == [
        "last.safetensors",
        "step_00000001.safetensors",
    ]
    assert (run / "earlier/1/weights/step_00000002.safetensors").is_file()
    train(config())
    assert load_weights(run / "weights/last.safetensors")[1]["step"] == 2


def test_a_run_goes_on_for_more_steps(run, config):
    train(config("trainer.max_steps=3", "data.num_workers=1"))
    assert (run / "weights/step_00000003.safetensors").is_file()
    assert len(json.loads((run / "versions.json").read_text())) == 2


def test_a_run_does_not_go_on_under_other_settings(run, config):
    changed = ["trainer.max_steps=3", "optimizer.lr=0.5"]
    with pytest.raises(ValueError, match=r"optimizer.lr: 0.001 → 0.5"):
        train(config(*changed))
    train(config(*changed, "allow_config_change=true"))
    assert yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["lr"] == 0.5


def test_settings_that_may_change_are_applied(run, config):
    """The checkpoint brought its own rate along, and config.yaml told of the other."""
    train(
        config("trainer.max_steps=4", "optimizer.lr=0.5", "lr_scheduler=constant", "allow_config_change=true")
    )
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert {group["initial_lr"] for group in state["optimizer_states"][0]["param_groups"]} == {0.5}
    assert state["lr_schedulers"][0]["base_lrs"][0] == 0.5
    starts = json.loads((run / "versions.json").read_text())
    assert starts[1]["from_step"] == 2
    assert any(line.startswith("optimizer.lr: ") for line in starts[1]["changes"])
    assert yaml.safe_load((run / "config.until_step_00000002.yaml").read_text())["optimizer"]["lr"] != 0.5


def test_batches_of_another_size_go_on_behind_the_last_sample(run, config, monkeypatch):
    """None of an epoch is seen twice or left out, and the steps count on."""
    words = ["trainer.max_steps=4", "data.batch_size=2", "trainer.accumulate_grad_batches=3"]
    with pytest.raises(ValueError, match=r"data.batch_size: 1 → 2\n"):
        train(config(*words))
    seen = []
    monkeypatch.setattr(
        ShardDataModule, "on_before_batch_transfer", lambda _, batch, __: seen.append(batch) or batch
    )
    train(config(*words, "data.val_span=null", "callbacks.samples=null", "allow_config_change=true"))
    stream = iter(instantiate(config("data.samples_per_epoch=14").data, _convert_="all").train_stream())
    expected = [*itertools.islice(stream, 14)][2:]
    assert len(seen) == 6
    assert [key for batch in seen for key in batch["key"]] == [each["key"][0] for each in expected]
    frames = torch.cat([batch["frame_index"] for batch in seen])
    assert torch.equal(frames, torch.cat([each["frame_index"] for each in expected]))
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 4
    (loader,) = state["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    # An epoch of 6 samples is now 3 batches, the first 2 samples count as one whole step of them.
    assert loader == {"epoch": 2, "batches": 3, "samples": 2, "position": 14}
    assert state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == 9
    changes = json.loads((run / "versions.json").read_text())[1]["changes"]
    assert "behind sample 2 of the data, batches of 1 → 2 samples over all devices" in changes[-1]


@pytest.mark.parametrize(
    ("name", "words"),
    [("val/fid", ["trainer.val_check_interval=1"]), ("perf/frames", []), ("train/accuracy", [])],
)
def test_a_figure_that_no_run_logs_ends_it_early(config, tmp_path, name, words):
    """It was named after the whole training."""
    with pytest.raises(
        ValueError, match=rf"optimized_metric: {name} is not among what this run logs \(.*train/loss"
    ):
        train(config(f"optimized_metric={name}", "trainer.max_steps=50", *words))
    rows = (tmp_path / "aniportrait/tiny_stage1/metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + (1 if words else 2)


def test_a_figure_that_a_run_logs_is_its_value(config):
    words = ["trainer.log_every_n_steps=1", "trainer.max_steps=3"]
    assert train(config("optimized_metric=perf/samples_per_s", *words)) > 0


def test_shards_that_grew_are_told_from_those_a_run_was_started_with(run, config, shards, tmp_path):
    grown = tmp_path / "grown"
    shutil.copytree(shards.parents[1], grown)
    with ShardWriter(grown, "train", first_shard=1) as writer:
        writer.write(synthetic_clip("late", num_frames=16, size=64, seed=7))
    pattern = f"data.shards={grown}/shards/train-*.tar"
    saved = yaml.safe_load((run / "config.yaml").read_text())
    saved["data"]["shards"] = pattern.partition("=")[2]
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    with pytest.raises(ValueError, match="started with 2 samples in 1 shards, there are now 3 samples in 2"):
        train(config("trainer.max_steps=3", pattern))
    train(config("trainer.max_steps=3", pattern, "allow_config_change=true"))


def test_accumulation_that_no_epoch_is_a_multiple_of_is_refused(config):
    """Also where the length of an epoch is that of the data."""
    with pytest.raises(ValueError, match=r"an epoch is 2 batches.*accumulate_grad_batches \(3\)"):
        train(config("trainer.accumulate_grad_batches=3", "data.samples_per_epoch=null"))


def test_stage_two_names_the_command_that_makes_stage_one(config, tmp_path):
    with pytest.raises(ValueError, match=r"python train\.py experiment=aniportrait/tiny_stage1"):
        train(config(experiment="aniportrait/tiny_stage2"))
    assert not (tmp_path / "aniportrait/tiny_stage2").exists()


def test_stage_two_starts_from_stage_one(run, config, tmp_path):
    train(
        config(
            "data.examples.clip_frames=2", "sampling.window_overlap=1", experiment="aniportrait/tiny_stage2"
        )
    )
    with (
        safe_open(run / "weights/last.safetensors", "pt") as first,
        safe_open(tmp_path / "aniportrait/tiny_stage2/weights/last.safetensors", "pt") as second,
    ):
        added = set(second.keys()) - set(first.keys())
        assert added
        assert all("motion_modules" in name for name in added)
        for name in first.keys():  # noqa: SIM118 (not a dict)
            assert torch.equal(first.get_tensor(name), second.get_tensor(name)), name
        assert any(second.get_tensor(name).any() for name in added if "proj_out" in name)


def test_data_that_is_not_there(config, tmp_path):
    with pytest.raises(ValueError, match=r"data.shards: no shard matches"):
        train(config("data.shards=nowhere/*.tar"))
    assert not (tmp_path / "aniportrait/tiny_stage1/config.yaml").exists()


def test_a_shard_cut_short_gives_its_intact_samples(config, shards, tmp_path):
    cut = tmp_path / "cut" / "shards" / shards.name
    cut.parent.mkdir(parents=True)
    shutil.copy(shards, cut)
    with cut.open("r+b") as file:
        file.truncate(shards.stat().st_size * 3 // 4)
    train(config(f"data.shards={cut}"))
    assert (tmp_path / "aniportrait/tiny_stage1/weights/last.safetensors").is_file()


def test_a_folder_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot write to"):
        train(config(f"paths.runs={tmp_path / 'file'}"))


def test_a_misspelt_argument_in_a_nested_setting_is_refused(config):
    with pytest.raises(ValueError, match=r"block_out_chanels.*did you mean 'block_out_channels'"):
        train(config("+model.network.denoising_unet.block_out_chanels=[8]"))


def test_a_run_without_validation_data_still_writes_its_checkpoints(config, tmp_path):
    """An empty validation loader once ended the step's callbacks, the checkpoint's too, without a word."""
    every = [f"callbacks.{name}.every_steps=1" for name in ("samples", "weights", "last_checkpoint")]
    train(config("data.val_span=null", "name=blind", *every))
    run = tmp_path / "blind"
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert len([*(run / "weights").glob("step_*.safetensors")]) == 2


@pytest.mark.parametrize("pose_size", ["64", "null"])
def test_drawings_that_do_not_fit_name_the_setting(config, pose_size):
    with pytest.raises(ValueError, match=r"data\.examples\.pose_size=128, 8 times the latents"):
        train(config(f"data.examples.pose_size={pose_size}", "name=unfit"))


def test_losses_of_a_run_are_logged_and_stand_in_no_weights_file(config, tmp_path, toy_losses):
    """Generation builds the system without them; a resume under another weight is another run."""
    extra = f"+losses.contrast={{_target_: {toy_losses}.Contrast, weight: 0.3}}"
    train(config(extra))
    run = tmp_path / "aniportrait/tiny_stage1"
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        total = float(row["train/loss_diffusion"]) + float(row["train/loss_contrast"])
        assert float(row["train/loss"]) == pytest.approx(total)
        assert float(row["train/contrast_spread"]) > 0

    with safe_open(run / "weights/last.safetensors", "pt") as file:
        assert "contrast" not in file.metadata()["portraitgen"].lower()
        names = set(file.keys())
    sys.modules.pop(toy_losses)
    system, _ = load_system(
        run / "weights/last.safetensors", changes={}, models="models", device=torch.device("cpu")
    )
    assert names == {*system.network.state_dict()}

    with pytest.raises(ValueError, match=r"losses\.contrast.*0\.3 → \(not set\)"):
        train(config("trainer.max_steps=3"))


def test_a_loss_changes_what_a_run_learns(config, tmp_path, toy_losses):
    found = []
    for weight in (0.0, 5.0):
        extra = f"+losses.contrast={{_target_: {toy_losses}.Contrast, weight: {weight}}}"
        train(config(extra, f"name=w{weight}"))
        tensors, _ = load_weights(tmp_path / f"w{weight}/weights/last.safetensors")
        found.append(tensors)
    train(config("name=none"))
    none, _ = load_weights(tmp_path / "none/weights/last.safetensors")
    assert all(torch.allclose(found[0][name], none[name], atol=1e-6) for name in none)
    assert not all(torch.allclose(found[1][name], none[name], atol=1e-4) for name in none)


@pytest.mark.parametrize(
    ("strategy", "rank", "without_memory"),
    [
        ("deepspeed_zero3", 1, True),
        ("fsdp", 1, True),
        ("deepspeed_zero3", 0, False),
        ("deepspeed_zero2", 1, False),
        ("ddp", 1, False),
    ],
)
def test_where_weights_are_sharded_the_first_process_alone_builds_them(
    monkeypatch, strategy, rank, without_memory
):
    """Under ZeRO-3 each built the whole network in its machine's memory."""
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(
            "train", ["experiment=aniportrait/tiny_stage1", "data.shards=x", f"strategy={strategy}"]
        )
    assert on_meta(_model(config).network) is without_memory
