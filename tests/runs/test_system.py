"""A weights file builds its system again, and cannot make anything else happen."""

import json

import pytest
import torch
from diffusers import AutoencoderKL
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import save_file

from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.pretrained import find_moved, library_bases, missing_models
from portraitgen.runs.system import choose_device, load_system
from portraitgen.training.weights import save_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def settings():
    """Model settings as train.py stores them: resolved."""
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["experiment=aniportrait/tiny_stage1", "sampling.num_steps=1"])
    return OmegaConf.to_container(config.model, resolve=True)


@pytest.fixture(scope="module")
def network(settings):
    torch.manual_seed(0)
    return instantiate(settings["network"], _convert_="all")


@pytest.fixture
def weights(settings, network, tmp_path):
    """Writes a weights file with changed settings; gives its path."""

    def weights(**changes):
        path = tmp_path / "weights.safetensors"
        config = json.loads(json.dumps(settings)) | changes
        save_weights(path, network.state_dict(), config=config, step=3, system="aniportrait")
        return path

    return weights


def test_the_network_is_the_one_that_was_saved(weights, network):
    system, facts = load_system(weights(), changes={}, models="models", device=CPU)
    assert facts["step"] == 3
    state = system.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not system.training
    assert not any(parameter.requires_grad for parameter in system.parameters())


def test_settings_can_be_changed(weights):
    system, _ = load_system(weights(), changes={"sampling": {"num_steps": 3}}, models="models", device=CPU)
    assert system.pipeline.num_steps == 3


def test_one_result_can_be_drawn_with_other_settings(weights):
    system, _ = load_system(weights(), changes={"sampling": {"num_steps": 3}}, models="models", device=CPU)
    usual = system.pipeline
    with system.sampled_with(num_steps=5):
        assert system.pipeline.num_steps == 5
        assert system.pipeline.network is system.network
    with pytest.raises(ValueError, match="num_steps is 0"), system.sampled_with(num_steps=0):
        pass
    assert system.pipeline is usual


def test_a_misspelt_change_is_refused(weights):
    with pytest.raises(ValueError, match=r"num_stepz.*did you mean 'num_steps'"):
        load_system(weights(), changes={"sampling": {"num_stepz": 3}}, models="models", device=CPU)


@pytest.mark.parametrize(
    "target",
    ["os.system", "torch.hub.load", "portraitgen.data.shards.ShardWriter", "lightning.pytorch.Trainer"],
)
def test_a_file_cannot_name_what_builds_no_model(weights, target, tmp_path):
    path = weights(image_encoder={"_target_": target, "root": str(tmp_path / "written"), "command": "true"})
    with pytest.raises(ValueError, match=r"image_encoder\._target_"):
        load_system(path, changes={}, models="models", device=CPU)
    assert not (tmp_path / "written").exists()


def test_a_file_cannot_read_the_environment(weights):
    with pytest.raises(ValueError, match="interpolations"):
        load_system(weights(gradient_checkpointing="${oc.env:HOME}"), changes={}, models="models", device=CPU)


def test_weights_of_another_network_are_refused(weights, settings):
    path = weights()
    wider = {
        "network": {"denoising_unet": {"layers_per_block": 2}, "reference_unet": {"layers_per_block": 2}}
    }
    with pytest.raises(ValueError, match="does not fit AniPortraitNetwork"):
        load_system(path, changes=wider, models="models", device=CPU)


def test_a_file_that_says_nothing_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="does not name the model that it holds"):
        load_system(tmp_path / "a.safetensors", changes={}, models="models", device=CPU)


def test_a_pretrained_model_that_is_not_here(weights):
    vae = {
        "_target_": "diffusers.AutoencoderKL.from_pretrained",
        "pretrained_model_name_or_path": "models/vae",
    }
    codec = {"_target_": "portraitgen.diffusion.latents.VAECodec", "vae": vae}
    with pytest.raises(ValueError, match="there is no model in models/vae"):
        load_system(weights(codec=codec), changes={}, models="models", device=CPU)


def test_where_a_pretrained_model_comes_from(weights):
    prompts = {
        "_target_": "portraitgen.nn.text.clip.CLIPText.from_pretrained",
        "folder": "models/sd",
        "source": "the CLIP of somebody (licence MIT)",
    }
    message = r"there is no model in models/sd; fetch the CLIP of somebody \(licence MIT\), or set this to"
    with pytest.raises(ValueError, match=message):
        load_system(weights(image_encoder=prompts), changes={}, models="models", device=CPU)


def test_a_text_encoder_is_named_by_its_files(tmp_path):
    (tmp_path / "flux/text_encoder_2").mkdir(parents=True)
    save_file({"shared.weight": torch.zeros(2)}, tmp_path / "flux/text_encoder_2/model.safetensors")
    node = {"_target_": "portraitgen.nn.text.t5.T5Text.from_pretrained", "folder": str(tmp_path / "flux")}
    facts = library_bases(
        OmegaConf.create({"prompts": {"encoder": node | {"text_encoder": "text_encoder_2"}}})
    )
    assert [*facts] == ["model.prompts.encoder"]
    assert facts["model.prompts.encoder"]["source"] == str(tmp_path / "flux")


def test_a_model_may_be_one_file(tmp_path):
    here = tmp_path / "models/voice.safetensors"
    here.parent.mkdir()
    save_file({"lstm.weight": torch.zeros(2)}, here)
    target = "portraitgen.nn.speech_encoders.VoiceEncoder.from_pretrained"
    config = OmegaConf.create({"speech_encoder": {"_target_": target, "path": str(here)}})
    facts = library_bases(config)
    assert [*facts["model.speech_encoder"]["files"]] == ["voice.safetensors"]
    # As another machine had it.
    config.speech_encoder.path = facts["model.speech_encoder"]["source"] = "/data/models/voice.safetensors"
    assert [*missing_models(config, "model", models="models")]
    find_moved(config, facts, models=str(here.parent))
    assert config.speech_encoder.path == str(here)


@pytest.fixture
def on_vae(weights, network, settings, tmp_path):
    """A weights file of a network on a VAE in models/vae, as another machine had it; gives both places."""

    def on_vae(folder="models/vae"):
        torch.manual_seed(1)
        vae = AutoencoderKL(block_out_channels=(8,), latent_channels=12, norm_num_groups=4)
        vae.save_pretrained(tmp_path / "here/vae")
        node = {
            "_target_": "diffusers.AutoencoderKL.from_pretrained",
            "pretrained_model_name_or_path": str(tmp_path / "here/vae"),
        }
        codec = {"_target_": "portraitgen.diffusion.latents.VAECodec", "vae": node}
        config = json.loads(json.dumps(settings)) | {"codec": codec}
        facts = library_bases(OmegaConf.create(config))
        assert [*facts] == ["model.codec.vae"]
        facts["model.codec.vae"]["source"] = node["pretrained_model_name_or_path"] = folder
        path = tmp_path / "on_vae.safetensors"
        state, given = network.state_dict(), {"bases": facts}
        save_weights(path, state, config=config, step=3, system="aniportrait", provenance=given)
        return path, tmp_path / "here"

    return on_vae


@pytest.mark.parametrize("folder", ["models/vae", "/data/big/models/vae"])
def test_a_pretrained_model_is_found_where_this_machine_has_it(on_vae, folder):
    path, models = on_vae(folder)
    system, _ = load_system(path, changes={}, models=str(models), device=CPU)
    assert system.codec.vae.config._name_or_path == str(models / "vae")
    with pytest.raises(ValueError, match=r"there is no model in|does not lie in paths.models"):
        load_system(path, changes={}, models="/nowhere", device=CPU)


def test_a_pretrained_model_that_is_another_is_refused(on_vae):
    path, models = on_vae()
    torch.manual_seed(2)
    vae = AutoencoderKL(block_out_channels=(8,), latent_channels=12, norm_num_groups=4)
    vae.save_pretrained(models / "vae")
    with pytest.raises(ValueError, match=r"its model\.codec\.vae stands on another diffusion_pytorch_model"):
        load_system(path, changes={}, models=str(models), device=CPU)


def test_models_that_are_not_here_are_listed_also_bases_of_networks(tmp_path):
    (tmp_path / "there").mkdir()
    node = OmegaConf.create(
        {
            "network": {"base": {"path": "models/big", "dtype": "bfloat16"}, "lora": {"path": "models/x"}},
            "image": {"_target_": "a.B.from_pretrained", "path": f"{tmp_path}/there", "other": "./c"},
            "hub": {"base": {"path": "somebody/model"}},
        }
    )
    assert [line.split(":")[0] for line in missing_models(node, "model", models="models")] == [
        "model.network.base.path",
        "model.image.other",
    ]


def test_devices():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="device=tpuu"):
        choose_device("tpuu")
