"""Stage 1, the hand-over to stage 2, and what of the network each of them changes."""

import csv

import pytest
import torch
from hydra.utils import instantiate

from portraitgen.diffusion.conditions import ConditionMasks
from portraitgen.losses.routing import RoutingLoss
from portraitgen.nn.lora import plain_name
from portraitgen.runs.train.train import train
from portraitgen.training.learner import Learner
from portraitgen.training.weights import load_weights
from tests.systems.uniportrait import tiny

QUICK = ["trainer.max_steps=2", "callbacks.samples.num_clips=1", "data.val_samples=1", "sampling.num_steps=1"]
pytestmark = pytest.mark.usefixtures("_not_deterministic")


@pytest.fixture(autouse=True, scope="module")
def _not_deterministic():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Both stages, and a second stage 2 that was interrupted after its first step."""
    root = tmp_path_factory.mktemp("runs")
    one, two = (tiny.write_photos(root / f"of_{people}", people=people) for people in (1, 2))
    train(tiny.config("stage1", *QUICK, shards=one, runs=str(root)))
    train(tiny.config("stage2", *QUICK, shards=two, runs=str(root)))
    first = f"stage.init_from={root}/uniportrait/tiny_stage1/weights/last.safetensors"
    for steps in (1, 2):
        words = [*QUICK, "name=again", first, f"trainer.max_steps={steps}"]
        train(tiny.config("stage2", *words, shards=two, runs=str(root)))
    return root


def weights(runs, name):
    return load_weights(runs / name / "weights/last.safetensors")[0]


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_stage_1_trains_resampler_keys_and_adapter(runs):
    fresh = {
        name.replace(".base_layer.", "."): value
        for name, value in tiny.build("stage1").network.state_dict().items()
    }
    torch.manual_seed(0)
    found = weights(runs, "uniportrait/tiny_stage1")
    assert found.keys() == fresh.keys()
    trained = {n for n in found if n.startswith("id_resampler.") or "_faceid." in n or ".lora_" in n}
    assert changed(fresh, found) <= trained
    # The text is zero here, and so is what adapters add to its keys and values.
    text = {n for n in trained if "attn2.to_k.lora" in n or "attn2.to_v.lora" in n}
    assert {n for n in trained if "lora_B" in n or "_faceid." in n} - text <= changed(fresh, found)


def test_stage_2_starts_with_the_one_adapter_as_the_other_and_trains_router_and_adapter(runs):
    first, second = weights(runs, "uniportrait/tiny_stage1"), weights(runs, "uniportrait/tiny_stage2")
    assert first.keys() < second.keys()
    assert not changed(first, second)
    routers = {name for name in second if "router." in name}
    adapter = {name for name in second if ".multi_id." in name}
    assert second.keys() - first.keys() == routers | adapter
    moved = [
        (second[name] - first[name.replace(".multi_id.", ".single_id.")]).abs().max().item()
        for name in adapter
    ]
    # Two steps of Adam, each as long as the rate: that of the adapter is a tenth.
    assert max(moved) <= 2 * 1.05e-4
    assert max(moved) > 0.5e-4
    with (runs / "uniportrait/tiny_stage2/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    figures = ("train/loss_routing", "train/routing_iou", "train/routing_loss_1", "train/routing_loss_2")
    assert all(float(row[name]) >= 0 for row in rows for name in figures)


def test_an_interrupted_stage_2_ends_with_the_same_bits(runs):
    whole, resumed = weights(runs, "uniportrait/tiny_stage2"), weights(runs, "again")
    assert whole.keys() == resumed.keys()
    assert not changed(whole, resumed)


def test_without_stage_1_the_message_names_its_command(runs, tmp_path):
    shards = f"{runs}/of_2/shards/*.tar"
    with pytest.raises(ValueError, match=r"python train\.py experiment=uniportrait/tiny_stage1"):
        train(tiny.config("stage2", *QUICK, shards=shards, runs=str(tmp_path)))


def test_of_stage_2_router_and_adapter_alone_have_a_gradient_one_at_a_tenth_of_the_others_rate():
    words = ["stage.init_from=null", "stage.expect_missing=[]", "stage.init_copies={}"]
    config = tiny.config("stage2", *words)
    module = tiny.build("stage2", *words)
    instantiate(config.stage).setup(None, module, "fit")
    Learner.setup(module, "fit")
    module.train().use_losses({"routing": RoutingLoss()})
    assert not module.features.training
    assert not module.network.id_resampler.training
    conditions = module.encode(tiny.batch()).conditions
    found = module.denoise(torch.randn(2, 48, 16, 16), torch.tensor([10, 500]), conditions, ConditionMasks())
    logits = found.by_products["router_logits"].values()
    (found.prediction.square().sum() + sum(each.square().sum() for each in logits)).backward()
    parameters = {plain_name(name): each for name, each in module.network.named_parameters()}
    routers = {name for name in parameters if "router." in name}
    adapter = {name for name in parameters if ".multi_id." in name}
    assert {name for name, each in parameters.items() if each.grad is not None} == routers | adapter
    assert all(each.grad is None for name, each in module.named_parameters() if "network." not in name)
    groups = module.configure_optimizers()["optimizer"].param_groups
    rates = {id(each): group["lr"] for group in groups for each in group["params"]}
    assert {rates[id(parameters[name])] for name in routers} == {config.optimizer.lr}
    assert {rates[id(parameters[name])] for name in adapter} == {config.optimizer.lr * 0.1}
