"""Every mistake of a configuration is found at once, with its place, before anything is built."""

import pytest
from omegaconf import OmegaConf

from portraitgen.runs.config.check import ConfigError, check_config, find_problems


def problems(text: str) -> list[str]:
    return find_problems(OmegaConf.create(text))


def test_a_right_configuration_has_no_problem():
    assert problems("layer: {_target_: torch.nn.Linear, in_features: 3, out_features: 4, bias: false}") == []
    assert problems("layer: {_target_: torch.nn.Linear, _args_: [3, 4]}") == []
    assert problems("layer: {_target_: torch.nn.Linear, _partial_: true, in_features: 3}") == []


def test_all_mistakes_are_listed_with_their_places():
    found = problems("""
        name: ???
        optimizer: {_target_: torch.optim.AdamW, _partial_: true, lr: 1e-4, beta: [0.9, 0.99]}
        trainer:
          _target_: lightning.pytorch.Trainer
          max_stepz: 10
          devices: "${nowhere}"
          callbacks: [{_target_: lightning.pytorch.callbacks.ModelCheckpoint, every_n_step: 5}]
        layer: {_target_: torch.nn.Linear, in_features: 3}
        broken: {_target_: portraitgen.nope.X}
    """)
    assert [line.split(":")[0] for line in found] == [
        "name",
        "optimizer.beta",
        "trainer.devices",
        "trainer.callbacks[0].every_n_step",
        "trainer.max_stepz",
        "layer.out_features",
        "broken._target_",
    ]
    assert found[1].endswith("did you mean 'betas'?")
    assert found[4].endswith("did you mean 'max_steps'?")
    assert "required by Linear" in found[5]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("max_steps: abc", "expected int, got 'abc'"),
        ("max_steps: 1.5", "expected int, got 1.5"),
        ("max_steps: true", "expected int, got True"),
        ("precision: bf", "'bf16-mixed'"),
        ("fast_dev_run: [1]", None),  # containers are not judged
        ("max_steps: 100.0", None),
        ("max_time: null", None),
        ("limit_val_batches: 3", None),
        ("limit_val_batches: 0.5", None),
    ],
)
def test_scalars_of_a_wrong_type(argument, expected):
    found = problems(f"trainer: {{_target_: lightning.pytorch.Trainer, {argument}}}")
    assert (expected is None and not found) or (len(found) == 1 and expected in found[0])


def test_no_scalar_stands_for_what_follows_a_protocol():
    """Protocols cannot be asked about an object: the check died of asking."""
    prompts = "prompts: {{_target_: portraitgen.nn.text.prompts.Prompts, encoder: {}}}"
    assert problems(prompts.format("null")) == []
    (problem,) = problems(prompts.format("t5"))
    assert problem == "prompts.encoder: expected TextEncoder | null, got 't5'"


def test_a_network_judges_its_nested_settings_without_memory():
    from portraitgen.runs.config.schema import CONF

    model = OmegaConf.load(CONF / "model/aniportrait_tiny.yaml").network
    config = OmegaConf.create({"model": {"network": model}})
    assert find_problems(config) == []
    config.model.network.denoising_unet.block_out_chanels = [8]
    (problem,) = find_problems(config)
    assert problem.startswith("model.network.denoising_unet.block_out_chanels: ")
    assert problem.endswith("did you mean 'block_out_channels'?")


def test_code_from_model_folders_is_refused():
    found = problems("""
        encoder:
          _target_: transformers.CLIPVisionModel.from_pretrained
          pretrained_model_name_or_path: somewhere
          trust_remote_code: true
    """)
    (problem,) = found
    assert problem.startswith("encoder.trust_remote_code: from_pretrained takes no such argument (it takes ")


def test_an_error_counts_and_lists_them():
    check_config(OmegaConf.create("a: 1"))
    with pytest.raises(ConfigError, match=r"^2 problems .*nothing was started:\n  a: .*\n  b: "):
        check_config(OmegaConf.create({"a": "???", "b": "???"}))
