"""Adapters leave a weights file for diffusers and come back, through the command."""

import logging
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from hydra import compose, initialize_config_dir
from torch import nn

from portraitgen.nn.lora import add_lora, lora_settings
from portraitgen.runs import convert as convert_module
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.convert import convert
from portraitgen.training.weights import load_weights, plain_state, save_weights

FACE = {"rank": 4, "alpha": 6, "targets": ["unet.*.to_[qk]"]}


class Network(nn.Module):
    """As a system's: diffusers' U-Net beside a part of its own."""

    def __init__(self, lora=None):
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=2,
            cross_attention_dim=12,
        )
        self.resampler = nn.Linear(3, 3)
        add_lora(self, lora)


def run(*words: str) -> None:
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        convert(compose("convert", ["kind=lora", *words]))


@pytest.fixture
def experiment(monkeypatch):
    """Makes settings of an experiment with this network and these adapters what `into` finds."""

    def experiment(lora):
        node = {"_target_": f"{__name__}.Network", "lora": lora}
        model = {"_target_": "portraitgen.systems.aniportrait.module.AniPortrait", "network": node}
        settings = {"model": model, "data": {"a": 1}}
        monkeypatch.setattr(convert_module, "_experiment", lambda name, overrides, *, models: settings)
        monkeypatch.setattr(convert_module, "build_on_meta", lambda node: Network(node["lora"]))

    return experiment


def written(path: Path, lora) -> dict[str, torch.Tensor]:
    """A weights file of a run that trained adapters and the resampler."""
    torch.manual_seed(0)
    network = Network(lora)
    state = {n: torch.randn_like(t) for n, t in plain_state(network).items() if not _is_base(n)}
    facts = {"lora": lora_settings(network)}
    save_weights(path, state, config={"x": 1}, step=5, system="toy", provenance=facts)
    return state


def _is_base(name: str) -> bool:
    return name.startswith("unet.") and ".lora_" not in name


def test_there_and_back(tmp_path, experiment, caplog):
    state = written(tmp_path / "w.safetensors", {"face": FACE})
    with caplog.at_level(logging.WARNING):
        run(f"source={tmp_path}/w.safetensors", f"out={tmp_path}/adapter")
    assert "holds 2 tensors that are no adapters" in caplog.text
    assert [file.name for file in (tmp_path / "adapter").iterdir()] == ["pytorch_lora_weights.safetensors"]

    experiment({"face": FACE | {"alpha": 1, "rank": 2, "dropout": 0.1}})
    run(f"source={tmp_path}/adapter", f"out={tmp_path}/back.safetensors", "into=toy/stage1")
    back, facts = load_weights(tmp_path / "back.safetensors")
    adapters = {name: tensor for name, tensor in state.items() if ".lora_" in name}
    assert back.keys() == adapters.keys()
    assert all(torch.equal(back[name], adapters[name]) for name in back)
    assert facts["lora"] == {"face": {"rank": 4, "alpha": 6}}
    assert (facts["system"], facts["data"], facts["shards"]) == ("aniportrait", {"a": 1}, [])
    node = facts["config"]["network"]["lora"]["face"]
    assert (node["rank"], node["alpha"], node["dropout"]) == (4, 6, 0.1)
    assert plain_state(Network(facts["config"]["network"]["lora"])).keys() >= back.keys()


def test_without_an_experiment_it_is_a_part_to_start_from(tmp_path):
    written(tmp_path / "w.safetensors", {"face": FACE})
    run(f"source={tmp_path}/w.safetensors", f"out={tmp_path}/adapter")
    run(f"source={tmp_path}/adapter", f"out={tmp_path}/part.safetensors")
    tensors, facts = load_weights(tmp_path / "part.safetensors")
    assert facts["config"] == {}
    assert facts["lora"] == {"default": {"rank": 4, "alpha": 6}}
    assert all(".default." in name for name in tensors)


def test_several_adapters_get_a_folder_each(tmp_path):
    written(tmp_path / "w.safetensors", {"single_id": FACE, "multi_id": FACE | {"rank": 2}})
    run(f"source={tmp_path}/w.safetensors", f"out={tmp_path}/adapters")
    assert sorted(folder.name for folder in (tmp_path / "adapters").iterdir()) == ["multi_id", "single_id"]


def test_what_does_not_fit_is_refused(tmp_path, experiment):
    save_weights(tmp_path / "none.safetensors", {"a": torch.ones(1)}, config={}, step=0, system="toy")
    with pytest.raises(ValueError, match="holds no adapters"):
        run(f"source={tmp_path}/none.safetensors", f"out={tmp_path}/adapter")
    written(tmp_path / "w.safetensors", {"face": FACE})
    run(f"source={tmp_path}/w.safetensors", f"out={tmp_path}/adapter")
    words = [f"source={tmp_path}/adapter", f"out={tmp_path}/b.safetensors", "into=toy/stage1"]
    experiment({"one": FACE, "two": FACE})
    with pytest.raises(ValueError, match="the network has the adapters one, two, but this is one"):
        run(*words)
