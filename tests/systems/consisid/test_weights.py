"""Published weights ↔ ours, through convert.py and generate.py, at a tiny size."""

from dataclasses import replace

import pytest
import torch
from diffusers import ConsisIDTransformer3DModel
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from portraitgen.nn.lora import lora_settings
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.convert import _experiment, convert
from portraitgen.runs.system import load_system
from portraitgen.systems.consisid.network import ConsisIDNetwork
from portraitgen.systems.consisid.weights import KINDS, publish, read_face_modules
from portraitgen.training.weights import load_facts, load_weights, save_weights
from tests.systems.consisid import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """paths.models with the folder ConsisID-preview, as diffusers writes a transformer."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    transformer = ConsisIDTransformer3DModel(**_transformer())
    transformer.save_pretrained(root / "ConsisID-preview/transformer")
    return root


def _transformer():
    made = OmegaConf.to_container(tiny.config("identity").model.network.transformer, resolve=True)
    assert isinstance(made, dict)
    return made


@pytest.fixture
def run(models, monkeypatch):
    """convert.py with the tiny model in the place of the published one."""
    base = "{path: ${paths.models}/ConsisID-preview, subfolder: transformer}"
    small = ("model=consisid_tiny", f"model.network.base={base}")
    for name, kind in KINDS.items():
        more = ("model.network.lora=null",) if name == "consisid" else ()
        monkeypatch.setitem(KINDS, name, replace(kind, settings=(*small, *more)))

    def run(kind, source, out):
        register_configs()
        given = [f"kind={kind}", f"source={source}", f"out={out}", f"paths.models={models}"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            convert(compose("convert", given))

    return run


@pytest.mark.parametrize("name", KINDS)
def test_the_settings_of_the_published_model_pass_the_check(name, tmp_path):
    register_configs()
    settings = _experiment("consisid/identity", [*KINDS[name].settings], models=str(tmp_path))
    assert settings["model"]["network"]["base"]["path"] == f"{tmp_path}/ConsisID-preview"
    assert settings["model"]["network"]["transformer"]["is_train_face"]


def test_the_published_folder_is_the_base_of_a_file_that_holds_no_weights(run, models, tmp_path):
    out = tmp_path / "consisid.safetensors"
    run("consisid", models / "ConsisID-preview", out)
    tensors, facts = load_weights(out)
    assert not tensors
    assert facts["config"]["network"]["base"]["path"] == f"{models}/ConsisID-preview"
    system, _ = load_system(out, changes={}, models=str(models), device=CPU)
    theirs = ConsisIDTransformer3DModel.from_pretrained(models / "ConsisID-preview/transformer").state_dict()
    found = system.network.transformer.state_dict()
    assert found.keys() == theirs.keys()
    assert all(torch.equal(found[name], theirs[name]) for name in theirs)


def trained(models, *, rank, alpha):
    settings = {"path": str(models / "ConsisID-preview"), "subfolder": "transformer"}
    network = ConsisIDNetwork(transformer=_transformer(), base=settings, lora=tiny.lora(rank, alpha))
    torch.manual_seed(5)
    for name, parameter in network.named_parameters():
        if "local_facial" in name or "perceiver" in name or ".lora_" in name:
            parameter.data.normal_(std=0.1)
    return network


def test_face_modules_and_an_adapter_of_any_alpha_come_back(run, models, tmp_path):
    network = trained(models, rank=2, alpha=6.0)
    ours = tmp_path / "ours.safetensors"
    state = {name.replace(".base_layer.", "."): value for name, value in network.state_dict().items()}
    held = {n: v for n, v in state.items() if ".lora_" in n or "local_facial" in n or "perceiver" in n}
    save_weights(
        ours,
        held,
        config={"network": {}},
        step=3,
        system="consisid",
        provenance={"lora": lora_settings(network)},
    )
    folder = tmp_path / "published"
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        convert(compose("convert", ["kind=lora", f"source={ours}", f"out={folder}"]))
    for name, content in publish(network).items():
        torch.save(content, folder / name)
    back = tmp_path / "back.safetensors"
    run("consisid_lora", folder, back)
    tensors, _ = load_weights(back)
    assert tensors.keys() == held.keys()
    assert all(torch.equal(tensors[name], held[name]) for name in held)
    assert load_facts(back)["lora"] == {"identity": {"rank": 2, "alpha": 6.0}}
    system, _ = load_system(back, changes={}, models=str(models), device=CPU)
    assert lora_settings(system.network) == {"identity": {"rank": 2, "alpha": 6.0}}


def test_the_adapter_works_in_diffusers_as_here(models, tmp_path):
    from diffusers import ConsisIDPipeline

    from portraitgen.training.diffusers_lora import find_adapters, write_adapter

    network = trained(models, rank=2, alpha=6.0)
    state = {name.replace(".base_layer.", "."): value for name, value in network.state_dict().items()}
    write_adapter(tmp_path, find_adapters(state, lora_settings(network))["identity"])
    theirs = ConsisIDTransformer3DModel(**_transformer())
    theirs.load_state_dict({n.removeprefix("transformer."): v for n, v in state.items() if ".lora_" not in n})
    loaded, config = ConsisIDPipeline.lora_state_dict(tmp_path, return_lora_metadata=True)
    theirs.load_lora_adapter(loaded, prefix="transformer", metadata=config)
    shown, text, time = torch.randn(1, 2, 384, 16, 16), torch.randn(1, 3, 16), torch.tensor([400])
    face = {"id_cond": torch.randn(1, 280), "id_vit_hidden": [torch.randn(1, 17, 32) for _ in range(5)]}
    rotary = network._rotary(2, 16, 16, CPU)
    with torch.no_grad():
        one, other = (
            model(shown, text, time, image_rotary_emb=rotary, **face).sample
            for model in (network.transformer, theirs)
        )
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_files_that_do_not_fit_are_refused_by_name(run, tmp_path):
    with pytest.raises(ValueError, match=r"no transformer/config\.json: fetch BestWishYsh"):
        run("consisid", tmp_path, tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match="has no face modules: there should be a"):
        read_face_modules(tmp_path)
    torch.save({"local_facial_extractor": {}}, tmp_path / "face_modules.pt")
    with pytest.raises(ValueError, match="holds no local_facial_extractor and list"):
        read_face_modules(tmp_path)
    with pytest.raises(ValueError, match="has no face modules: give weights of the identity stage"):
        publish(tiny.network(is_train_face=False))
