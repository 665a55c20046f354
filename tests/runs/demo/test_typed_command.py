"""The command of a result means what was asked for, whatever signs a prompt or a name has."""

import shlex

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.config.words import readable_words
from portraitgen.runs.demo.typed_command import typed_command

TEXTS = [
    "two friends at the sea",
    "it's \"her\" \\ 'house\\'",
    "${oc.env:HOME} $HOME `ls` $(ls) \\${x}",
    "a=b, [c, {d: e}] #f; g & h | i > j * k ? ~ ! % ^",
    "null",
    "true",
    "12",
    "1e3",
    "",
    " ",
    "ends with \\",
    "日本の女性, 50 % – naïve",
    "-x --help",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_typed_is_read_back(text, monkeypatch):
    monkeypatch.setenv("HOME", "/secret")
    values = {
        "reference": [[text, "a b.jpg"], ["c.jpg"]],
        "prompt": text,
        "layout": [[0, 0.1, 0.5, 1]],
        "size": [64, 96],
        "fps": 12.5,
        "inputs.mix": 0.5,
        "inputs.raw_points": True,
        "inputs.face": "2",
    }
    line = typed_command("runs/x/last.safetensors", ["device=cpu"], values, seed=3, out=f"{text}.mp4")
    python, script, *words = shlex.split(line)
    assert (python, script) == ("python", "generate.py")
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        read = OmegaConf.to_container(compose("generate", readable_words(words)), resolve=True)
    assert read["weights"] == "runs/x/last.safetensors"
    for name in ("reference", "prompt", "layout", "size", "fps"):
        assert read[name] == values[name], name
    assert read["inputs"] == {"mix": 0.5, "raw_points": True, "face": "2"}
    assert (read["seed"], read["out"], read["device"]) == (3, f"{text}.mp4", "cpu")
