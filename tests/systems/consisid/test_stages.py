"""The global stage, the hand-over to the identity stage, and what of the network each of them changes."""

import pytest
import torch

from portraitgen.runs.train.train import train
from portraitgen.training.weights import load_weights
from tests.systems.consisid import tiny

QUICK = ["trainer.max_steps=3", "callbacks.samples=null", "data.val_samples=1", "sampling.num_steps=1"]
FACE = ("transformer.local_facial_extractor.", "transformer.perceiver_cross_attention.")
pytestmark = pytest.mark.usefixtures("_not_deterministic")


@pytest.fixture(autouse=True, scope="module")
def _not_deterministic():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def shards(talking_man):
    return str(talking_man / "data/shards/train-*.tar")


@pytest.fixture(scope="module")
def runs(shards, tmp_path_factory):
    """Both stages, and a second identity stage that was interrupted after its first step."""
    root = tmp_path_factory.mktemp("runs")
    for stage in ("global", "identity"):
        train(tiny.config(stage, *QUICK, shards=shards, runs=str(root)))
    first = f"stage.init_from={root}/consisid/tiny_global/weights/last.safetensors"
    for steps in (1, 3):
        words = [*QUICK, "name=again", first, f"trainer.max_steps={steps}"]
        train(tiny.config("identity", *words, shards=shards, runs=str(root)))
    return root


def weights(runs, name):
    return load_weights(runs / name / "weights/last.safetensors")[0]


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def is_face(name):
    return name.startswith(FACE)


def test_the_identity_stage_trains_face_modules_and_adapters_alone(runs):
    first, second = weights(runs, "consisid/tiny_global"), weights(runs, "consisid/tiny_identity")
    assert not any(is_face(name) or ".lora_" in name for name in first)
    assert first.keys() < second.keys()
    assert not changed(first, second), "the transformer of the global stage is frozen"
    added = second.keys() - first.keys()
    assert all(is_face(name) or ".lora_" in name for name in added)
    torch.manual_seed(0)
    built = tiny.build("identity").network.state_dict()
    fresh = {name.replace(".base_layer.", "."): value for name, value in built.items()}
    moved = changed({name: fresh[name] for name in added}, second)
    assert {name for name in added if ".lora_B" in name} <= moved
    assert {name for name in added if is_face(name) and name.endswith("weight")} <= moved


def test_an_interrupted_identity_stage_ends_with_the_same_bits(runs):
    whole, resumed = weights(runs, "consisid/tiny_identity"), weights(runs, "again")
    assert whole.keys() == resumed.keys()
    assert not changed(whole, resumed)


def test_without_the_global_stage_the_message_names_its_command(shards, tmp_path):
    with pytest.raises(ValueError, match=r"python train\.py experiment=consisid/tiny_global"):
        train(tiny.config("identity", *QUICK, shards=shards, runs=str(tmp_path)))
