"""What visitors may choose of the sampling is what the weights' pipeline has, within what is declared."""

import pytest
from hydra import compose, initialize_config_dir

from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.config.systems import all_systems, system_file
from portraitgen.runs.demo.sampling_choice import SamplingChoice
from portraitgen.runs.generate.loaded import choose
from tests.runs.tiny import save_tiny


def choice(path, *words):
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return SamplingChoice(choose(compose("generate", [f"weights={path}", "out=a.mp4", *words])))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny") / "last.safetensors", "sampling.guidance_scale=2.5")


@pytest.fixture(scope="module")
def loopy(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "loopy.safetensors"
    return save_tiny(path, experiment="loopy/tiny_stage1")


@pytest.mark.parametrize("system", all_systems())
def test_every_system_lets_its_steps_be_chosen(system):
    names = [each.name for each in system_file(system, "inputs").Inputs.sampling]
    assert "sampling.num_steps" in names


def test_the_default_is_what_it_was_loaded_with(weights):
    stated = {each.name: each.default for each in choice(weights).inputs}
    assert stated == {"sampling.num_steps": 1, "sampling.guidance_scale": 2.5}
    (steps, _) = choice(weights, "sampling.num_steps=500").inputs
    assert (steps.default, steps.high) == (500, 500), "the page can show what it was started with"


def test_values_are_told_apart_and_held_within_bounds(weights):
    chosen = choice(weights)
    values = {"size": 64, "sampling.num_steps": 3, "sampling.guidance_scale": 1.5}
    assert chosen.of(values) == {"num_steps": 3, "guidance_scale": 1.5}
    assert [*chosen.problems(values)] == []
    assert [*chosen.problems({"sampling.guidance_scale": 0.5})] == [
        "sampling.guidance_scale: 0.5, but it must be between 1 and 20"
    ]
    assert [*chosen.problems({"sampling.num_steps": 0})], "no step at all"


def test_the_command_takes_what_it_does_not_list(weights, loopy):
    assert choice(weights).typed("sampling.num_steps") == "sampling.num_steps"
    assert choice(weights).typed("size") == "size"
    speaking = choice(loopy)
    assert speaking.typed("sampling.audio_scale") == "+sampling.audio_scale"
    again = choice(loopy, "+sampling.audio_scale=2.5")
    assert {each.name: each.default for each in again.inputs}["sampling.audio_scale"] == 2.5
