"""ConsisID's own demo clip through the whole chain: import, features, both stages, a video of a photo; and on
Wan.
"""

import csv
import json
from fnmatch import fnmatch

import pytest
import torch
from hydra import compose, initialize_config_dir

from portraitgen.media.decode import read_video
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.generate.generate import generate
from portraitgen.runs.prepare.compute_features import compute_features
from portraitgen.runs.prepare.consisid import import_consisid
from portraitgen.runs.train.train import train
from portraitgen.training.weights import load_weights
from tests.systems.consisid import tiny

QUICK = [
    "trainer.max_steps=3",
    "callbacks.samples=null",
    "data.val_samples=1",
    "sampling.num_steps=1",
    "data.examples.features=[face]",
    "data.examples.reference=null",
    "data.examples.masks=face",
    "model.objective.mask_probability=1.0",
]


def run(task, name, *words):
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(name, list(words))
    task(config)


WAN_ITSELF = [
    *(f"transformer.{name}.*" for name in ("patch_embedding", "condition_embedder", "proj_out")),
    *(f"transformer.blocks.*.{name}.*" for name in ("attn1", "attn2", "ffn", "norm2")),
    "transformer.*scale_shift_table",
]
WAN_GLOBAL = ["name=consisid/wan_global", f"stage.train={WAN_ITSELF}", "model.network.lora=null"]
FRESH = ["local_facial_extractor.*", "*.face_attention.*", "*.face_gate", "*.lora_[AB].*"]


@pytest.fixture(scope="module")
def demo(shared, tmp_path_factory):
    """The clip in a shard, its masks as ConsisID tracked them, and features of its face."""
    source = shared / "testdata/consisid_demo"
    if not source.is_dir():
        pytest.skip("no testdata/consisid_demo: ConsisID's asserts/demo_train_data")
    out = tmp_path_factory.mktemp("demo") / "out"
    words = [f"source={source}", f"out={out}", "workers=0", "size=[480,720]"]
    run(import_consisid, "prepare_import_consisid", *words)
    untrained = "{_target_: portraitgen.faces.conditioner.untrained_conditioner}"
    words = ["features=[face]", "~features.face.conditioner", f"+features.face.conditioner={untrained}"]
    run(compute_features, "prepare_features", f"out={out}", "workers=0", *words)
    return f"{out}/shards/train-*.tar"


@pytest.fixture(scope="module")
def runs(demo, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for stage in ("global", "identity"):
        train(tiny.config(stage, *QUICK, shards=demo, runs=str(root)))
    train(tiny.config("wan", *QUICK, *WAN_GLOBAL, shards=demo, runs=str(root)))
    first = f"stage.init_from={root}/consisid/wan_global/weights/last.safetensors"
    train(tiny.config("wan", *QUICK, first, shards=demo, runs=str(root)))
    words = ["model.objective.mask_probability=0.0", "trainer.max_steps=1", "name=consisid/whole"]
    train(tiny.config("global", *QUICK, *words, shards=demo, runs=str(root)))
    torch.use_deterministic_algorithms(False)
    return root / "consisid"


def logged(folder):
    (file,) = folder.rglob("metrics.csv")
    return [row for row in csv.DictReader(file.open()) if row["train/loss"]]


@pytest.mark.parametrize("name", ["tiny_global", "tiny_identity", "wan_global", "tiny_wan"])
def test_none_of_its_masks_is_empty(runs, name):
    """By the official crop all of them are."""
    rows = logged(runs / name)
    assert [float(row["train/mask_empty"]) for row in rows] == [0.0] * 3


def test_the_loss_is_that_inside_the_masks(runs):
    """The same step on the same clip, noise and time, without looking at the masks."""
    masked, whole = (logged(runs / name)[0]["train/loss"] for name in ("tiny_global", "whole"))
    assert float(masked) > 0
    assert float(masked) != pytest.approx(float(whole), rel=1e-3)


def test_on_wan_the_second_stage_leaves_the_first_as_it_is(runs):
    first, second = (
        load_weights(runs / f"{n}/weights/last.safetensors")[0] for n in ("wan_global", "tiny_wan")
    )
    fresh = {name for name in second if any(fnmatch(name, pattern) for pattern in FRESH)}
    assert second.keys() - first.keys() == {name for name in fresh if ".lora_" in name}
    assert all(torch.equal(first[name], second[name]) for name in second.keys() - fresh)
    gates = [name for name in fresh if name.endswith("face_gate")]
    assert not any(first[name].any() for name in gates)
    assert all(second[name].any() for name in gates), "they have opened"


@pytest.mark.parametrize("name", ["tiny_identity", "tiny_wan"])
def test_of_the_chain_comes_a_video_of_a_photo(runs, name, shared, tmp_path):
    photo = shared / "testdata/photos/single/astronaut.png"
    weights = runs / name / "weights/last.safetensors"
    words = [f"weights={weights}", f"reference={photo}", f"out={tmp_path}", "device=cpu"]
    run(generate, "generate", *words)
    (row,) = map(json.loads, (tmp_path / "samples.jsonl").read_text().splitlines())
    frames = read_video(tmp_path / row["video"])
    assert frames.shape[0] == 5
    assert frames.std() > 0
