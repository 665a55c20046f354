"""Words of a command line as people type them."""

import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.config.words import override_words, quoted, readable_words, unreadable

NAMES = [
    *("Зоя.jpg", "photo (1).jpg", "it's.png", "a,b", "x=y", "a&b.png", "c#.wav", "José/face.jpg"),
    *(
        "lr=1e-5,seed=2/weights.safetensors",
        "a[1].jpg",
        "x;y",
        'say "hi".txt',
        "back\\slash",
        "back\\'slash",
        "end\\",
    ),
]


def value(word: str) -> object:
    """What Hydra takes a word for."""
    (override,) = OverridesParser.create().parse_overrides([word])
    assert not override.is_sweep_override()
    return override.value()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_a_file_is_taken_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).touch()
    (word,) = readable_words([f"driving={name}"])
    assert value(word) == name
    assert readable_words([word]) == [word]
    (word,) = (
        readable_words([f"reference=[[{name}],{name}]"]) if "," not in name and "[" not in name else ["a=[]"]
    )
    assert value(word) in ([[name], name], [])


def test_patterns_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "my shards (new)"
    folder.mkdir()
    (folder / "train-000.tar").touch()
    for pattern in ("{000..127}", "*", "{000,001}"):
        (word,) = readable_words([f"data.shards=~/my shards (new)/train-{pattern}.tar"])
        assert value(word) == f"{folder}/train-{pattern}.tar"


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/shards/train-*.tar",
        "https://host/shards/train-{000000..000127}.tar?x=1&y=2",
        "pipe:ssh host 'cat /a/train-{0..3}.tar' | tee a,b",
    ],
)
def test_addresses_are_taken_as_they_stand(address: str) -> None:
    (word,) = readable_words([f"data.shards={address}"])
    assert value(word) == address


def test_several_addresses_are_tried_one_after_the_other() -> None:
    assert readable_words(["data.shards=s3://a/b.tar,s3://c/d.tar"]) == [
        "data.shards=s3://a/b.tar,s3://c/d.tar"
    ]


def test_what_names_no_file_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("5", "null", "true", "tiny"):
        Path(name).touch()
    words = [
        "seed=5",
        "callbacks.ema=null",
        "x=true",
        "model=tiny",
        "optimizer.lr=1e-5,3e-5",
        "out=gone",
        "-m",
    ]
    assert readable_words([*words, "~logger", "+a.b=[1,2]", "a={b:1}"]) == [
        *words,
        "~logger",
        "+a.b=[1,2]",
        "a={b:1}",
    ]


def test_groups_of_which_nothing_is_chosen() -> None:
    """The schema offers null for them."""
    words = ["lr_scheduler=null", "logger=null", "callbacks=null"]
    assert readable_words(words) == ["~lr_scheduler", "~logger", "~callbacks"]


def test_agents_of_sweeps_write_dashes() -> None:
    words = ["--optimizer.lr=1e-5", "--seed=3", "--config-name=x", "--cfg=job", "--multirun", "--help"]
    assert readable_words(words) == ["optimizer.lr=1e-5", "seed=3", *words[2:]]


def test_what_an_agent_of_a_sweep_calls_is_what_the_sweep_means(tmp_path: Path) -> None:
    """W&B writes values as Python prints them: None was the word None, a dict could not be read."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    meant = {
        "optimizer.lr": 1e-5,
        "seed": 3,
        "model.gradient_checkpointing": True,
        "data.examples.size": [64, 32],
        "trainer.precision": "bf16-mixed",
        "data.val_shards": None,
        "optimizer": {"betas": [0.9, 0.95]},
        "name": "sweep, of two",
    }
    parameters = {"args": {name: {"value": value} for name, value in meant.items()}}
    command = utils.create_sweep_command(["${program}", "${args}", "experiment=aniportrait/tiny_stage1"])
    assert command[1] == "${args}"
    words = readable_words([*utils.create_sweep_command_args(parameters)["args"], command[2]])
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", words)
    for name, value in meant.items():
        found = OmegaConf.select(config, name)
        if name == "optimizer":
            name, value, found = "optimizer.betas", [0.9, 0.95], config.optimizer.betas
        assert found == value, name


def test_options_and_their_values_are_no_overrides() -> None:
    words = ["-cn", "other", "--config-dir", "D", "--cfg", "hydra", "-m", "seed=1", "a=b"]
    assert override_words(words) == ["seed=1", "a=b"]


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_read_is_answered_with_words_that_a_shell_and_hydra_take(name: str) -> None:
    if name in ("a,b", "back\\slash", "end\\", "back\\'slash"):  # read as something else
        assert value(quoted("out", name)) == name
        return
    (line,) = unreadable([f"out={name}"])
    (word,) = shlex.split(line.partition("; write ")[2])
    assert value(word) == name


def test_options_of_hydra_are_left_as_they_are(tmp_path):
    """A folder that is there was quoted, and then not found under that name."""
    words = [f"--config-dir={tmp_path}", "--config-name=train", "experiment=quickstart/stage1"]
    assert readable_words(words) == words
