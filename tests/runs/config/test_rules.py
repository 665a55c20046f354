"""What must hold between settings, and on this machine, is said before training starts."""

import pytest
import torch
from hydra import compose, initialize_config_dir

from portraitgen.runs.config.rules import machine_problems, setting_problems
from portraitgen.runs.config.schema import CONF, register_configs


def compose_experiment(experiment, *overrides):
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [f"experiment={experiment}", "data.shards=x", *overrides])


def config(*overrides):
    return compose_experiment("aniportrait/tiny_stage1", *overrides)


def test_a_right_configuration_breaks_no_rule():
    assert list(setting_problems(config())) == []
    assert list(machine_problems(config())) == []


def test_deepspeed_on_a_cpu():
    pytest.importorskip("deepspeed")
    (problem,) = setting_problems(config("strategy=deepspeed_zero2"))
    assert "CUDA GPUs only" in problem


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_deepspeed_without_a_gpu():
    (problem,) = machine_problems(config("strategy=deepspeed_zero2", "trainer.accelerator=auto"))
    assert "there is none here" in problem


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("strategy.stage=7", "stage"),
        ("+strategy.config={zero_optimization: {stage: 2, overlap_com: true}}", "overlap_com"),
        ("+strategy.config={gradient_cliping: 1.0}", "did you mean 'gradient_clipping'?"),
    ],
)
def test_deepspeed_settings_are_parsed_by_deepspeed(override, message):
    pytest.importorskip("deepspeed")
    problems = list(setting_problems(config("strategy=deepspeed_zero2", "trainer.accelerator=gpu", override)))
    assert len(problems) == 1
    assert message in problems[0]


def test_prodigy_needs_all_that_trains():
    (problem,) = setting_problems(config("strategy=fsdp", "optimizer=prodigy"))
    assert "use strategy=ddp, or optimizer=adamw" in problem


def test_a_callback_without_a_class_is_read_by_nobody():
    (problem,) = setting_problems(config("+callbacks.sampels.every_steps=3"))
    assert (
        problem
        == "callbacks.sampels: no _target_ names a class, so it has no effect; did you mean 'samples'?"
    )


def test_null_leaves_a_callback_out():
    assert list(setting_problems(config("callbacks.samples=null"))) == []


def test_batches_of_an_epoch_fill_every_step():
    fits = config("data.samples_per_epoch=8", "trainer.accumulate_grad_batches=2")
    assert list(setting_problems(fits)) == []
    (problem,) = setting_problems(config("data.samples_per_epoch=6", "trainer.accumulate_grad_batches=2"))
    assert "an epoch is 3 batches" in problem


@pytest.mark.parametrize("override", ["data.batch_size=0", "trainer.accumulate_grad_batches=0"])
def test_sizes_below_one(override):
    (problem,) = setting_problems(config(override))
    assert "must be 1 or more" in problem


def test_pretrained_models_and_weights_must_be_here():
    full = compose_experiment("aniportrait/stage2", "stage.init_from=nowhere.safetensors")
    problems = [line for line in machine_problems(full) if "DeepSpeed" not in line]
    assert [line.split(":")[0] for line in problems] == [
        "model.codec.vae.pretrained_model_name_or_path",
        "model.image_encoder.path",
        "stage.init_from",
    ]
    assert "make it with: python train.py experiment=aniportrait/stage1" in problems[-1]
    hub = compose_experiment(
        "aniportrait/stage1", "model.codec.vae.pretrained_model_name_or_path=someone/vae"
    )
    image, start = machine_problems(hub)  # a hub id is not judged
    assert image.startswith("model.image_encoder.path")
    assert "make it with: python convert.py kind=stable_diffusion" in start


def test_slurm_must_have_started_a_task_for_each_device(monkeypatch):
    for name, value in (("NTASKS", "8"), ("NTASKS_PER_NODE", "4"), ("STEP_ID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    (problem,) = machine_problems(config("trainer.devices=2"))
    assert "SLURM started 8 tasks" in problem
    assert list(machine_problems(config("trainer.devices=4", "trainer.num_nodes=2"))) == []


def test_torchrun_must_have_started_a_process_for_each_device(monkeypatch):
    """Each of two processes once trained the whole run, in one folder."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    (problem,) = machine_problems(config("trainer.devices=1"))
    assert "torchrun started 2 processes" in problem
    assert list(machine_problems(config("trainer.devices=2"))) == []


def test_more_devices_than_there_are_is_refused():
    problems = list(machine_problems(config("trainer.devices=99")))
    assert any(line.startswith("trainer.devices: 99, but this machine has") for line in problems)


def problems(*overrides, **node):
    given = config(*overrides)
    given.losses = {"extra": node}
    return list(setting_problems(given))


def test_losses_must_be_losses():
    assert problems("losses=none", _target_="portraitgen.diffusion.conditions.ConditionDropout") == [
        "losses.extra: portraitgen.diffusion.conditions.ConditionDropout is no loss "
        "(a class under portraitgen.losses.loss.Loss)"
    ]
    (problem,) = problems(weight=0.1)
    assert problem == "losses.extra: no _target_ names a class, so it has no effect"


def test_a_loss_needs_what_the_network_gives(toy_losses):
    assert problems(_target_=f"{toy_losses}.Contrast", weight=0.1) == []
    (problem,) = problems(_target_=f"{toy_losses}.Routing", weight=0.1)
    assert problem == (
        "losses.extra: needs 'router_logits' of the network; AniPortrait gives nothing beside its prediction"
    )


def test_the_identity_loss_is_one_switch_and_asks_for_what_it_looks_at(tmp_path):
    given = config("losses=identity")
    assert list(setting_problems(given)) == []
    missing = [line for line in machine_problems(given) if line.startswith("losses")]
    assert missing[0].startswith("losses.identity.arcface_weights: there is no file")
    assert "non-commercial research only" in missing[0]
    (tmp_path / "backbone.pth").touch()
    there = config("losses=identity", f"losses.identity.arcface_weights={tmp_path}/backbone.pth")
    assert not [line for line in machine_problems(there) if line.startswith("losses")]
    (problem,) = setting_problems(config("losses=identity", "data.examples.key_points=false"))
    assert problem == (
        "losses.identity: it looks for faces by their key_points: set data.examples.key_points=true"
    )
    (problem,) = setting_problems(config("losses=identity", "losses.identity.face_align_mode=bbox"))
    assert "set data.examples.boxes=true" in problem


def test_models_that_draw_nothing_take_no_losses(toy_losses):
    given = compose_experiment("aniportrait/tiny_audio2mesh")
    given.losses = {"extra": {"_target_": f"{toy_losses}.Contrast", "weight": 0.1}}
    (problem,) = setting_problems(given)
    assert problem.startswith("losses: portraitgen.systems.aniportrait.audio_training.")
    assert problem.endswith("generates no pictures, so it takes no further losses")
