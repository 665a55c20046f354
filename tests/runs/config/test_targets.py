"""Only classes that are defined in allowed modules can be named in a configuration."""

import pytest

from portraitgen.runs.config.targets import MODEL_TARGETS, argument_names, did_you_mean, resolve_target


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.exec",
        "torch.nn.os.system",  # found in an allowed module, not defined there
        "torch.hub.load",
        "torch.load",
        "torch.nn.functional.relu",  # functions outside portraitgen are not named
        "portraitgen.runs.config.command.os.system",
        "portraitgen.runs.config.command.sys.exit",
        "torch.nn.Linear.__init__.__globals__",
        "lightning.pytorch.Trainer.__init__",
        "hydra.utils.get_method",
        "Linear",
        "",
    ],
)
def test_refuses_what_could_run_code(name):
    with pytest.raises(ValueError, match=r"not in an allowed package|may name here|has no"):
        resolve_target(name)


def test_nothing_outside_the_allowed_packages_is_imported():
    import sys

    sys.modules.pop("antigravity", None)
    with pytest.raises(ValueError):
        resolve_target("antigravity.geohash")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "name",
    [
        "torch.optim.AdamW",
        "lightning.pytorch.Trainer",
        "diffusers.DDIMScheduler",
        "diffusers.AutoencoderKL.from_pretrained",
        "portraitgen.training.optim.warmup_cosine",
        "portraitgen.data.datamodule.ShardDataModule",
    ],
)
def test_resolves_what_configurations_name(name):
    assert callable(resolve_target(name))


def test_weights_files_may_only_name_what_builds_models():
    assert callable(resolve_target("torch.nn.Linear", MODEL_TARGETS))
    for name in ("portraitgen.data.shards.ShardWriter", "portraitgen.media.encode.write_video"):
        with pytest.raises(ValueError, match="may name here"):
            resolve_target(name, MODEL_TARGETS)


def test_names_the_nearest_member():
    with pytest.raises(ValueError, match=r"'torch.optim' has no 'AdamX'; did you mean 'Adam"):
        resolve_target("torch.optim.AdamX")


def test_arguments_of_classes_that_pass_their_keywords_on():
    ddp = argument_names(resolve_target("lightning.pytorch.strategies.DDPStrategy"))
    assert ddp is not None
    assert "find_unused_parameters" in ddp  # DistributedDataParallel's
    assert "process_group_backend" in ddp  # its own


def test_hint_only_when_something_is_near():
    assert did_you_mean("num_wrokers", ["num_workers", "seed"]) == "; did you mean 'num_workers'?"
    assert did_you_mean("qqq", ["num_workers"]) == ""
