"""Every command that a document or script tells the reader to type composes and passes the check."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException

from portraitgen.runs.config.check import find_problems
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.config.subcommands import CONVERT, DEMO, EVALUATE, GENERATE, PREPARE
from portraitgen.runs.config.words import readable_words
from tests.documented import DOCUMENTS, commands, is_override, words_of

# What a reader must give, where a document leaves it out.
REQUIRED = {
    "train": {"data.shards": "shards.tar"},
    "generate": {"weights": "w", "shards": "s", "out": "o"},
    "evaluate": {"generated": "g"},
    "evaluate_history": {"run": "r"},
    "demo": {"weights": "w"},
    "generate_landmarks": {"driving": "d", "out": "o"},
    "generate_ipvg": {"people": "p", "prompts": "t", "out": "o.jsonl"},
    "generate_requests": {"protocol": "fastcomposer_one", "people": "p", "out": "o"},
    "prepare": {"source": "s", "out": "o"},
    "convert": {"kind": "k", "source": "s", "out": "o"},
    "prepare_verify": {"out": "o"},
    "prepare_inspect": {"out": "o"},
    "prepare_features": {"out": "o"},
    "prepare_import_consisid": {"source": "s", "out": "o"},
    "prepare_export_consisid": {"shards": "s", "out": "o"},
    "evaluate_selftest": {},
    "evaluate_sensitivity": {"clips": "[a,b]", "out": "o"},
    "evaluate_compare": {"results": "r", "out": "o"},
    "evaluate_sweep": {"weights": "w", "shards": "s", "out": "o"},
}
SUBCOMMANDS = {
    "prepare": PREPARE,
    "generate": GENERATE,
    "evaluate": EVALUATE,
    "convert": CONVERT,
    "demo": DEMO,
}


def overrides_of(arguments: str) -> list[str]:
    """The overrides among the words of a command line; of a sweep's values the first, and x for variables."""
    plain = re.sub(r"(seed|workers)=\"?\$[({]?\w+[)}]?\"?", r"\1=1", arguments)
    plain = re.sub(r"\$\(\w+\)|\$\{?[\w.]+\}?|\"?\$@\"?|…", "x", plain)
    words = words_of(plain)
    overrides = [word for word in words if is_override(word)]
    if {"-m", "sweep"} & set(words):
        overrides = [re.sub(r"^([\w./@]+=[^,\[{]+),.*$", r"\1", override) for override in overrides]
    return overrides


@pytest.mark.parametrize(("document", "name", "arguments"), commands())
def test_the_command_composes(document, name, arguments):
    if name in SUBCOMMANDS:
        subcommand = SUBCOMMANDS[name][arguments.split()[0] if re.match(r"[a-z_]+(\s|$)", arguments) else ""]
        subcommand.load()  # registers its schema
        name = subcommand.config_name
    if "optuna" in arguments:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    register_configs()
    overrides = overrides_of(arguments)
    given = {override.split("=")[0].lstrip("+") for override in overrides}
    if name == "train" and not given & {"experiment", "model"}:
        overrides.append("experiment=aniportrait/tiny_stage1")
    overrides += [f"{key}={value}" for key, value in REQUIRED[name].items() if key not in given]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        if "chanels" in arguments:  # a document shows what happens to a mistake
            with pytest.raises(ConfigCompositionException, match="chanels"):
                compose(name, overrides)
        else:
            assert find_problems(compose(name, readable_words(overrides))) == []


def test_commands_are_found():
    documents = {document for document, _, _ in commands()}
    assert {"README.md", "Makefile", "conf/train.yaml"} <= documents


@pytest.mark.parametrize(
    ("arguments", "overrides"),
    [
        ("experiment=a/b data.shards='x y' \"$@\" | tee log", ["experiment=a/b", "data.shards=x y"]),
        ("-m seed=0,1 optimizer.lr=1e-5,3e-5 # a comment", ["seed=0", "optimizer.lr=1e-5"]),
        ("span=[0.75,1.0] out=$(OUT)", ["span=[0.75,1.0]", "out=x"]),
        ("weights=… shards=… (conf/generate.yaml).", ["weights=x", "shards=x"]),
    ],
)
def test_overrides_are_read_off_a_command_line(arguments, overrides):
    assert overrides_of(arguments) == overrides


def test_documents_are_free_of_home_directories():
    for path in DOCUMENTS:
        assert f"{Path.home()}/" not in path.read_text(), path
