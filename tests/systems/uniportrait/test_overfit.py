"""A tiny stage 2 learns from three real photos of several people where their faces are."""

import csv

import pytest
import torch

from portraitgen.runs.train.train import train
from tests.command_line import run_command
from tests.systems.uniportrait import tiny

# The whole of the untrained network learns, and nothing is dropped or mirrored: where people are in a photo
# that is almost all noise can only be known of photos that are always the same.
OVERFIT = [
    "stage.train=['*']",
    "stage.lr_scale={}",
    "stage.init_from=null",
    "stage.expect_missing=[]",
    "stage.init_copies={}",
    "model.condition_dropout=null",
    "model.structure_dropout=null",
    "data.examples.flip=0",
    "data.examples.other=0",
    "data.train_span=[0,1]",
    "data.val_span=[0,1]",
    "data.val_samples=3",
    "data.batch_size=3",
    "data.samples_per_epoch=240",
    "optimizer.lr=3e-3",
    "trainer.max_steps=80",
    "trainer.log_every_n_steps=20",
    "trainer.val_check_interval=80",
    "callbacks.samples=null",
]


@pytest.fixture(autouse=True)
def _not_deterministic():
    yield
    torch.use_deterministic_algorithms(False)


def test_the_router_finds_the_faces(shared, tmp_path):
    photos = shared / "testdata/photos/multi"
    words = [f"source={photos}", f"out={tmp_path}/photos", "workers=0", "photo_size=400"]
    assert run_command("prepare.py", *words, folder=tmp_path) == 0
    shards = f"{tmp_path}/photos/shards/*.tar"
    train(tiny.config("stage2", *OVERFIT, shards=shards, runs=str(tmp_path)))
    with (tmp_path / "uniportrait/tiny_stage2/metrics.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    losses = [float(row["train/loss_routing"]) for row in rows if row["train/loss_routing"]]
    assert losses[-1] < losses[0] / 3
    assert float(rows[-1]["val/routing_iou"]) > 0.9
