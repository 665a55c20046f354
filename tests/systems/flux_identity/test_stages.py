"""Runs of the tiny experiments: what trains, what a restart and a second stage make of it, that it learns."""

import csv
import os
import subprocess
import sys

import pytest
import torch

from portraitgen.diffusion.conditions import ConditionMasks
from portraitgen.runs.convert_lora import export_adapters
from portraitgen.runs.train.train import train
from portraitgen.training.diffusers_lora import FILE_NAME, read_adapter
from portraitgen.training.weights import load_into, load_weights
from tests.systems.flux_identity import tiny

QUICK = ["trainer.max_steps=5", "callbacks.samples.num_clips=1", "data.val_samples=1", "sampling.num_steps=1"]
pytestmark = pytest.mark.usefixtures("_not_deterministic")


@pytest.fixture(autouse=True, scope="module")
def _not_deterministic():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny.write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def runs(shards, tmp_path_factory):
    """Each way once."""
    root = tmp_path_factory.mktemp("runs")
    for way in tiny.WAYS:
        train(tiny.config(way, *QUICK, shards=shards, runs=str(root)))
    return root


def weights(runs, name):
    return load_weights(runs / name / "weights/last.safetensors")


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("way", tiny.WAYS)
def test_adapters_train_and_nothing_else(runs, way):
    fresh = {n.replace(".base_layer.", "."): v for n, v in tiny.build(way).network.state_dict().items()}
    found, facts = weights(runs, f"flux_identity/tiny_{way}")
    assert facts["system"] == "flux_identity"
    assert facts["lora"] == {"identity": {"rank": 4, "alpha": 4}}
    assert found.keys() == fresh.keys(), "a network on no base is written whole"
    trained = {name for name in found if ".lora_B." in name}
    assert all((found[name] != 0).any() for name in trained)
    with (runs / f"flux_identity/tiny_{way}/metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]
    assert len(losses) == 5


@pytest.mark.parametrize("way", tiny.WAYS)
def test_an_interrupted_run_ends_with_the_same_bits(runs, shards, way):
    """Prodigy's estimate of the rate is part of what is resumed."""
    for steps in (3, 5):
        words = [*QUICK, f"name=again_{way}", f"trainer.max_steps={steps}"]
        train(tiny.config(way, *words, shards=shards, runs=str(runs)))
    state = torch.load(runs / f"again_{way}/checkpoints/last.ckpt", weights_only=True)
    (group,) = state["optimizer_states"][0]["param_groups"]
    assert (group["k"], group["d0"]) == (5, 1e-3)
    assert group["d_numerator"] != 0, "what the estimate is made of"
    (whole, _), (resumed, _) = weights(runs, f"flux_identity/tiny_{way}"), weights(runs, f"again_{way}")
    assert not changed(whole, resumed)


def test_a_second_stage_starts_from_the_first(runs, shards):
    first = runs / "flux_identity/tiny_kontext/weights/last.safetensors"
    words = [*QUICK, "name=second", f"stage.init_from={first}", "stage.name=second", "trainer.max_steps=1"]
    train(
        tiny.config(
            "kontext",
            *words,
            "optimizer=adamw",
            "~optimizer.d0",
            "optimizer.lr=1e-12",
            shards=shards,
            runs=str(runs),
        )
    )
    before, after = weights(runs, "flux_identity/tiny_kontext")[0], weights(runs, "second")[0]
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", ["fill_diptych", "klein"])
def test_the_adapter_of_a_run_works_in_diffusers_transformer(runs, way, tmp_path):
    """As convert.py writes it, on the base of the run."""
    name = f"flux_identity/tiny_{way}"
    export_adapters(runs / name / "weights/last.safetensors", tmp_path / "lora")
    tensors, facts = weights(runs, name)
    assert len(read_adapter(tmp_path / "lora").layers) == sum(".lora_A." in each for each in tensors)
    ours = tiny.build(way).network.eval()
    load_into(ours, tensors, source="the run")
    theirs = type(ours).kind(**facts["config"]["network"]["transformer"]).eval()
    base = {n.removeprefix("transformer."): t for n, t in tensors.items() if ".lora_" not in n}
    theirs.load_state_dict(base)
    torch.manual_seed(0)
    tokens, text = torch.randn(1, 6, theirs.config.in_channels), torch.randn(1, 4, 32)
    axes = 4 if way == "klein" else 3
    inputs = {
        "hidden_states": tokens,
        "encoder_hidden_states": text,
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(6, axes),
        "txt_ids": torch.zeros(4, axes),
        "return_dict": False,
    }
    if way != "klein":
        inputs |= {"pooled_projections": torch.randn(1, 16), "guidance": torch.ones(1)}
    with torch.no_grad():
        expected = ours.transformer(**inputs)[0]
        plain = theirs(**inputs)[0]
        theirs.load_lora_adapter(str(tmp_path / "lora"), weight_name=FILE_NAME, prefix="transformer")
        found = theirs(**inputs)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (plain - expected).abs().max() > 1e-5, "five steps have changed it"


def test_two_processes_train_together(repository, shards, tmp_path):
    words = ["strategy=ddp", "trainer.devices=2", "data.batch_size=1", "trainer.max_steps=2"]
    words += [f"data.shards={shards}", f"paths.runs={tmp_path}", "callbacks.samples=null"]
    done = subprocess.run(
        [sys.executable, "train.py", "experiment=flux_identity/tiny_fill_diptych", *words],
        cwd=repository,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "flux_identity/tiny_fill_diptych/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    assert [float(row["train/loss_identity"]) > 0 for row in rows] == [True, True]


@pytest.mark.parametrize("way", ["fill_diptych", "kontext"])
def test_adapters_alone_learn_a_pair(way):
    """On a base that knows nothing, so that most of the noise stays; the whole network learns more."""
    wide = ["model.network.lora.identity.rank=16", "model.network.lora.identity.alpha=16"]
    module, batch = tiny.build(way, *wide), tiny.batch(size=(32, 32))
    coarse = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch["result"] = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    trained = [p for n, p in module.network.named_parameters() if ".lora_" in n]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    encoded, losses = module.encode(batch), []
    for step in range(80):
        noised = module.objective.noise(
            encoded.clean, module.objective.sample_time(2, step=step, device="cpu")
        )
        denoised = module.denoise(noised.noisy, noised.time, encoded.conditions, ConditionMasks())
        loss = module.objective.loss(denoised.prediction, noised, encoded.mask).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])
