"""Everything under conf/ composes and passes the check: every experiment, every option of every group."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from portraitgen.runs.config.check import find_problems
from portraitgen.runs.config.rules import setting_problems
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.config.subcommands import CONVERT, DEMO, EVALUATE, GENERATE, PREPARE

EXPERIMENTS = [
    f"{path.parent.relative_to(CONF / 'experiment')}/{path.stem}"
    for path in sorted(CONF.glob("experiment/**/*.yaml"))
]
OTHER_COMMANDS = ("/generate", "/evaluate")
TINY = ["experiment=aniportrait/tiny_stage1"]
# Options that go with another kind of model → the experiment that they are tried on.
KINDRED = {
    "model/aniportrait/audio2mesh": "aniportrait/tiny_audio2mesh",
    "sampling/aniportrait/offsets": "aniportrait/tiny_audio2mesh",
    "model/aniportrait/audio2pose": "aniportrait/tiny_audio2pose",
    "sampling/aniportrait/poses": "aniportrait/tiny_audio2pose",
    "data/photos": "uniportrait/tiny_stage1",
    "model/loopy": "loopy/tiny_stage1",
    "sampling/loopy": "loopy/tiny_stage1",
    "stage/loopy/image": "loopy/tiny_stage1",
    "stage/loopy/clip": "loopy/tiny_stage2",
    **{f"speech/{name}": "loopy/tiny_stage2" for name in ("wav2vec2", "voice", "mel_16", "mel_24")},
    "model/uniportrait": "uniportrait/tiny_stage1",
    "sampling/uniportrait": "uniportrait/tiny_stage1",
    "stage/uniportrait/single": "uniportrait/tiny_stage1",
    "stage/uniportrait/multi": "uniportrait/tiny_stage2",
    "losses/routing": "uniportrait/tiny_stage2",
    "data/pairs": "flux_identity/tiny_kontext",
    "stage/flux_identity": "flux_identity/tiny_kontext",
    "sampling/flux_identity": "flux_identity/tiny_kontext",
    "sampling/flux_identity_2": "flux_identity/klein",
    **{
        f"model/flux_identity/{way}": f"flux_identity/tiny_{way}"
        for way in ("fill_diptych", "kontext", "klein", "none")
    },
    "model/consisid": "consisid/tiny_global",
    "sampling/consisid": "consisid/tiny_global",
    "model/consisid_wan": "consisid/tiny_wan",
    "sampling/consisid_wan": "consisid/tiny_wan",
    "stage/consisid/wan": "consisid/tiny_wan",
    "stage/consisid/global": "consisid/tiny_global",
    "stage/consisid/identity": "consisid/tiny_identity",
    "losses/routing_identity": "uniportrait/tiny_stage2",
}
# What a user must say: the data, and for options that need more than a tiny run has.
GIVEN = ["data.shards=shards.tar"]
NEEDS = {
    "stage/aniportrait/temporal": ["stage.init_from=weights.safetensors", "stage.init_command=train"],
    "stage/loopy/clip": ["stage.init_from=weights.safetensors", "stage.init_command=train"],
    "stage/uniportrait/multi": ["stage.init_from=weights.safetensors", "stage.init_command=train"],
    "trainer/default": ["trainer.max_steps=1"],
    "trainer/slurm": ["trainer.max_steps=1"],
    "strategy/deepspeed_zero1": ["trainer.accelerator=gpu"],
    "strategy/deepspeed_zero2": ["trainer.accelerator=gpu"],
    "strategy/deepspeed_zero3": ["trainer.accelerator=gpu"],
}
TRAIN_GROUPS = (
    *("model", "data", "stage", "optimizer", "lr_scheduler", "sampling", "trainer", "strategy", "callbacks"),
    *("losses", "logger", "paths", "hparams_search", "debug", "speech"),
)


def options(group: str) -> list[str]:
    return [
        f"{group}/{path.relative_to(CONF / group)}"[:-5] for path in sorted((CONF / group).rglob("*.yaml"))
    ]


def compose_config(name: str, overrides: list[str]):
    register_configs()
    for subcommand in [
        each for table in (PREPARE, GENERATE, EVALUATE, CONVERT, DEMO) for each in table.values()
    ]:
        subcommand.load()  # registers its schema
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides)


def assert_runs(config) -> None:
    assert find_problems(config) == []
    assert list(setting_problems(config)) == []


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if not name.endswith(OTHER_COMMANDS)])
def test_every_stage(experiment):
    config = compose_config("train", [f"experiment={experiment}", *GIVEN])
    assert_runs(config)
    assert config.name == experiment, "a run is named after its experiment"


@pytest.mark.parametrize("stage", ["stage1", "stage2", "tiny_stage1", "tiny_stage2"])
def test_aniportrait_samples_on_the_schedule_of_its_training_unless_told_otherwise(stage):
    given = [f"experiment=aniportrait/{stage}", *GIVEN]
    config = compose_config("train", given)
    assert config.sampling.scheduler == config.model.objective.scheduler
    # Upstream's mismatch, on demand.
    config = compose_config("train", [*given, "sampling=aniportrait_released"])
    assert config.model.objective.scheduler.beta_schedule == "scaled_linear"
    assert config.model.sampling.scheduler.beta_schedule == "linear"


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if name.endswith(OTHER_COMMANDS)])
def test_every_experiment_of_another_command(experiment):
    """It is called like the command that it is for, and needs nothing beside."""
    config = compose_config(Path(experiment).name, [f"experiment={experiment}"])
    assert find_problems(config) == []


@pytest.mark.parametrize("option", [option for group in TRAIN_GROUPS for option in options(group)])
def test_every_option_of_every_group(option):
    for word, package in (("deepspeed", "deepspeed"), ("optuna", "hydra_plugins.hydra_optuna_sweeper")):
        if word in option:
            pytest.importorskip(package)
    group, _, name = option.partition("/")
    kindred = KINDRED.get(option.removesuffix("_tiny"))
    tiny = [f"experiment={kindred}"] if kindred else TINY
    config = compose_config("train", [*tiny, f"{group}={name}", *GIVEN, *NEEDS.get(option, [])])
    assert_runs(config)


@pytest.mark.parametrize("option", options("interpolation"))
def test_interpolation(option):
    given = [
        "weights=w",
        "shards=s",
        "out=o",
        *(["interpolation.between.file=f"] if "film" in option else []),
    ]
    config = compose_config("generate", [f"interpolation={Path(option).name}", *given])
    assert find_problems(config) == []
    assert (config.interpolation.every > 1) is (config.interpolation.between is not None)


def test_all_groups_are_covered():
    folders = {path.name for path in CONF.iterdir() if path.is_dir()}
    other = {
        "experiment",
        "hydra",
        "local",
        "face_condition",
        "faces",
        "masks",
        "metrics",
        "interpolation",
        "engine",
        "sync",
        "features",
        "trials",
        "protocol",
        "text",
        "remote_shards",
    }
    assert folders - other == set(TRAIN_GROUPS)


@pytest.mark.parametrize("name", [path.stem for path in sorted(CONF.glob("*.yaml")) if path.stem != "train"])
def test_every_other_command(name):
    needed = {
        "generate": ["weights=last.safetensors", "shards=shards.tar", "out=out"],
        "generate_landmarks": ["driving=talk.mp4", "out=out"],
        "generate_ipvg": ["people=p", "prompts=t", "out=o.jsonl"],
        "generate_requests": ["protocol=fastcomposer_two", "people=people.csv", "out=two.jsonl"],
        "evaluate": ["generated=out"],
        "demo": ["weights=last.safetensors"],
        "evaluate_selftest": [],
        "convert": ["kind=animatediff", "source=mm.ckpt", "out=mm.safetensors"],
        "prepare": ["source=videos", "out=shards"],
        "evaluate_sensitivity": ["clips=[a,b]", "out=out"],
        "evaluate_compare": ["results=[a,b]", "out=out"],
        "evaluate_history": ["run=runs/name"],
        "evaluate_sweep": ["weights=last.safetensors", "shards=shards.tar", "out=out"],
        "prepare_verify": ["out=shards"],
        "prepare_inspect": ["out=shards"],
        "prepare_features": ["out=shards"],
        "prepare_import_consisid": ["source=demo", "out=shards"],
        "prepare_export_consisid": ["shards=shards.tar", "out=demo"],
    }
    assert find_problems(compose_config(name, needed[name])) == []


@pytest.mark.parametrize("option", [*options("masks"), *options("sync")])
def test_every_step_of_preparation(option):
    needed = {
        "masks/sam2": ["masks.model=facebook/sam2.1-hiera-large"],
        "sync/syncnet": ["sync.weights=syncnet_v2.model"],
    }
    group, _, name = option.partition("/")
    words = ["source=videos", "out=shards", f"{group}={name}", *needed.get(option, [])]
    assert find_problems(compose_config("prepare", words)) == []


def test_all_features_together():
    names = [Path(option).name for option in options("features")]
    words = ["out=shards", f"features=[{','.join(names)}]"]
    config = compose_config("prepare_features", words)
    assert sorted(config.features) == names
    models = [f"features.{name}.model=folder" for name in names if "model" in config.features[name].keys()]  # noqa: SIM118
    folders = [f"features.{name}.encoder.folder=x" for name in names if "encoder" in config.features[name]]
    face = "features.face.conditioner"
    weights = [f"{face}.parser.weights=parsing_bisenet.pth", f"{face}.looks.path=eva.pt"]
    assert find_problems(compose_config("prepare_features", [*words, *models, *folders, *weights])) == []


@pytest.mark.parametrize("option", options("text"))
def test_text_encoders(option):
    place = "features.prompt.encoder"
    words = ["out=shards", "features=[prompt]", f"text@{place}={Path(option).name}", f"{place}.folder=x"]
    assert find_problems(compose_config("prepare_features", words)) == []


@pytest.mark.parametrize("option", options("engine"))
@pytest.mark.parametrize("name", ["prepare", "prepare_verify", "prepare_features"])
def test_engines(name, option):
    source = ["source=videos"] if name == "prepare" else []
    config = compose_config(name, [*source, "out=shards", f"engine={Path(option).name}"])
    assert find_problems(config) == []


@pytest.mark.parametrize("option", options("trials"))
def test_sweeps_in_one_file(option):
    register_configs()
    for subcommand in EVALUATE.values():
        subcommand.load()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("evaluate_sweep", [f"trials={Path(option).name}"], return_hydra_config=True)
        first = [f"{key}={value.split(',')[0]}" for key, value in config.hydra.sweeper.params.items()]
        assert find_problems(compose("evaluate_sweep", [f"trials={Path(option).name}", *first])) == []


@pytest.mark.parametrize("option", options("hydra/launcher"))
def test_launchers(option):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(
            "train",
            [*TINY, *GIVEN, f"hydra/launcher={Path(option).name}"],
            return_hydra_config=True,
        )
    launcher = config.hydra.launcher
    assert launcher.tasks_per_node == launcher.gpus_per_node, "one task a GPU"


def test_experiments_do_not_inherit_one_another():
    """What a parent sets for its own groups would leak into the child's."""
    for path in CONF.glob("experiment/**/*.yaml"):
        for default in OmegaConf.load(path).get("defaults", []):
            assert str(next(iter(default))).startswith("override /"), f"{path}: {default}"


def test_the_learning_rate_sweep_has_values():
    config = compose_config("train", [*TINY, *GIVEN, "hparams_search=learning_rate", "debug=fast"])
    assert_runs(config)


def test_debug_runs_stay_out_of_the_way_of_real_ones():
    for option in options("debug"):
        config = compose_config("train", [*TINY, *GIVEN, f"debug={Path(option).name}"])
        assert config.name == option
        assert config.callbacks.last_checkpoint is None, "a debug run is never resumed"
        photos = ["experiment=uniportrait/tiny_stage1", f"debug={Path(option).name}"]
        assert find_problems(compose_config("train", [*photos, *GIVEN])) == []
