"""A weights file of somebody else: what it says of itself is judged by name before anything is built."""

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from portraitgen.nn.limits import limited_modules
from portraitgen.runs.config.check import find_problems
from portraitgen.runs.config.targets import MODEL_TARGETS
from portraitgen.runs.pretrained import foreign_models
from portraitgen.runs.system import checked_settings, describe_system
from portraitgen.training.weights import load_facts, load_weights, require_fit
from portraitgen.training.weights_header import stated_size
from tests.command_line import run_command

GOOD: dict[str, Any] = {"system": "aniportrait", "step": 1, "config": {}, "data": {}}


def write(path: Path, facts: Any, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    text = facts if isinstance(facts, str) else json.dumps(facts)
    save_file(tensors or {"a": torch.zeros(2)}, path, metadata={"portraitgen": text})
    return path


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


DAMAGED = {
    "no JSON": "{",
    "a list": "[1]",
    "a number": "7",
    "null": "null",
    "too deep for Python": f'{{"config": {nested(100_000)}}}',
    "too deep": json.dumps({**GOOD, "config": json.loads(nested(100))}),
    "too many": json.dumps({**GOOD, "config": {"a": [0] * 300_000}}),
    "NaN": '{"system": "a", "step": NaN}',
    **{
        f"{name} is {value!r}": json.dumps({**GOOD, name: value})
        for name, value in [
            ("step", "1"),
            ("step", -1),
            ("step", True),
            ("step", 10**40),
            ("system", 3),
            ("system", None),
            ("config", [1]),
            ("config", "x"),
            ("data", [1]),
            ("data", {"examples": 3}),
            ("data", {"train_span": "x"}),
            ("shards", "x"),
            ("shards", [1]),
            ("commit", 3),
            ("landmark_scheme", {}),
            ("converted_from", []),
            ("bases", [1]),
            ("bases", {"network": 1}),
            ("bases", {"network": {"source": 3, "files": {}}}),
            ("bases", {"network": {"source": "a", "files": {"b": 3}}}),
            ("lora", []),
            ("lora", {"default": {}}),
            ("lora", {"default": {"alpha": "x"}}),
            ("lora", {"../../outside": {"alpha": 1}}),
        ]
    },
}


@pytest.mark.parametrize("case", DAMAGED)
def test_facts_are_judged(case, tmp_path):
    path = write(tmp_path / "a.safetensors", DAMAGED[case])
    for load in (load_facts, load_weights):
        with pytest.raises(ValueError, match="its metadata are damaged"):
            load(path)


@pytest.mark.parametrize("case", ["a list", "step is -1", "lora is {'../../outside': {'alpha': 1}}"])
def test_and_the_commands_say_so(case, tmp_path, capfd):
    path = write(tmp_path / "a.safetensors", DAMAGED[case])
    for words in (
        ("generate.py", f"weights={path}", "reference=a.jpg", "out=out"),
        ("convert.py", "kind=published", f"source={path}", "out=out"),
        ("convert.py", "kind=lora", f"source={path}", "out=out"),
    ):
        assert run_command(*words, folder=tmp_path) == 1
        errors = capfd.readouterr().err
        assert "damaged" in errors
        assert "Traceback" not in errors


def test_a_tensor_that_stands_there_twice(tmp_path):
    entry = '"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    header = f"{{{entry}, {entry}}}".encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(ValueError, match="'a' stands in it twice"):
        load_weights(path)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8, struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 2) + b"{"]
)
def test_a_header_that_is_not_there(content, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_facts(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "dtype", [torch.int32, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint8]
)
def test_weights_of_another_kind_of_number_are_refused_by_name(dtype):
    ours = {"layer.weight": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"of another kind of number:\n.*layer.weight: .* in the file"):
        require_fit(ours, {"layer.weight": torch.zeros(2).to(dtype)}, source="a", target="Network")
    require_fit(ours, {"layer.weight": torch.zeros(2, dtype=torch.bfloat16)}, source="a", target="Network")


PUBLIC = "portraitgen.systems.aniportrait.module.AniPortrait"


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "os.system", "command": "touch MARKER"},
        {"_target_": "portraitgen.media.files.replace_file", "path": "x", "data": "y"},
        {"_target_": "portraitgen.data.datamodule.ShardDataModule", "shards": "x"},
        {"_target_": "lightning.pytorch.Trainer"},
        {"_target_": "torch.load", "f": "x"},
    ],
)
def test_a_network_that_is_no_class_of_models(node, tmp_path, capfd):
    """convert.py kind=published called it."""
    path = write(tmp_path / "a.safetensors", {**GOOD, "config": {"_target_": PUBLIC, "network": node}})
    words = ("kind=published", f"source={path}", f"out={tmp_path / 'out'}")
    assert run_command("convert.py", *words, folder=tmp_path) == 1
    errors = capfd.readouterr().err
    assert "config" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "MARKER").exists()


def test_settings_with_interpolations_are_refused(tmp_path):
    path = write(tmp_path / "a.safetensors", {**GOOD, "config": {"a": "${oc.env:HOME}"}})
    with pytest.raises(ValueError, match="interpolations"):
        describe_system(path, changes={}, models="models")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pretrained_model_name_or_path", "/etc"),
        ("pretrained_model_name_or_path", "somebody/model-of-the-hub"),
        ("pretrained_model_name_or_path", "MODELS/../other"),
        ("subfolder", "../../other"),
        ("subfolder", "/etc"),
    ],
)
def test_a_file_names_no_model_outside_of_paths_models(key, value, tmp_path):
    models = tmp_path / "models"
    (models / "vae").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    value = value.replace("MODELS", str(models))
    vae = {"_target_": "diffusers.AutoencoderKL.from_pretrained"}
    vae |= {"pretrained_model_name_or_path": str(models / "vae")} | {key: value}
    stated = {"codec": {"vae": vae}}
    (line,) = foreign_models(OmegaConf.create(stated), stated, "model", models=str(models))
    assert line.startswith(f"model.codec.vae.{key}: the file names {value}")
    vae[key] = "theirs"
    changed = OmegaConf.create({"codec": {"vae": {**vae, key: value}}})
    assert [*foreign_models(changed, stated, "model", models=str(models))] == [], "the user's own word"


def test_what_settings_claim_is_bounded(tmp_path):
    config = {
        "objective": {"scheduler": {"_target_": "diffusers.DDIMScheduler", "num_train_timesteps": 10**9}}
    }
    path = write(tmp_path / "a.safetensors", {**GOOD, "config": config})
    with pytest.raises(ValueError, match=r"num_train_timesteps: 1000000000, but at most 100000"):
        checked_settings(path, load_facts(path))


def test_a_network_of_endless_layers_is_refused_in_time():
    from portraitgen.runs.config.schema import CONF

    network = OmegaConf.load(CONF / "model/aniportrait_tiny.yaml").network
    network.denoising_unet.layers_per_block = 20_000
    began = time.monotonic()
    (problem,) = find_problems(OmegaConf.create({"network": network}), allowed=MODEL_TARGETS)
    assert "more than 20000 layers" in problem
    assert time.monotonic() - began < 120
    with pytest.raises(ValueError, match="more than 3 layers"), limited_modules(3):
        torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(3)))
    assert torch.nn.Linear(1, 1) is not None


@pytest.mark.parametrize("stated", ["x", [1], [1, 2, 3], 0, -8, 10**9, [8, "8"], 1.5, True])
def test_a_size_that_is_none(stated):
    with pytest.raises(ValueError, match="does not say what size"):
        stated_size({"data": {"examples": {"pose_size": stated}}}, "pose_size")
    assert stated_size({"data": {"examples": {"pose_size": [8, 16]}}}, "pose_size") == (8, 16)


def test_a_network_that_its_file_cannot_fill(tmp_path):
    from portraitgen.runs.claims import require_fits_file

    network = {"_target_": "torch.nn.Linear", "in_features": 100_000, "out_features": 100_000}
    path = write(tmp_path / "a.safetensors", GOOD, {"a": torch.zeros(1)})
    with pytest.raises(ValueError, match="10000100000 numbers"):
        require_fits_file(OmegaConf.create({"network": network}), path)


@pytest.mark.parametrize(("name", "value"), [("norm_num_groups", 0), ("block_out_channels", [])])
def test_settings_that_break_a_network_from_within_are_told(name, value):
    """Dividing by zero ended in a traceback."""
    from portraitgen.runs.config.schema import CONF

    network = OmegaConf.load(CONF / "model/aniportrait_tiny.yaml").network
    network.denoising_unet[name] = value
    problems = find_problems(OmegaConf.create({"network": network}), allowed=MODEL_TARGETS)
    assert len(problems) == 1
