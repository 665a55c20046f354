"""`losses=identity` on every system that draws: one switch, with a real recognition network."""

import csv
import math
import shutil

import pytest

from tests.command_line import run_command
from tests.loss_curves import shards_for, tiny_experiments

SYSTEMS = {
    name: "identity_diptych" if "diptych" in name else "identity"
    for name in tiny_experiments()
    if "audio2" not in name and not name.endswith(("stage2", "identity", "none"))
}
"""A tiny experiment of each system, and of each way that what is drawn differs from the picture."""


def test_no_system_is_forgotten():
    names = {name.split("/")[0] for name in SYSTEMS}
    assert names == {name.split("/")[0] for name in tiny_experiments()}


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_switch_trains(name, talking_man, tmp_path):
    """dlib's network, which comes with a package, looks at what every system draws, video codecs included."""
    shards = shards_for(name, clips=f"{talking_man}/data/shards/train-*.tar", folder=tmp_path)
    words = [
        *(f"experiment={name}", f"data.shards={shards}", f"paths.runs={tmp_path}", "callbacks.samples=null"),
        *("trainer.max_steps=2", "data.val_span=null", "trainer.log_every_n_steps=1"),
        *(f"losses={SYSTEMS[name]}", "losses.identity.recognizer=dlib"),
        *("losses.identity.arcface_model=null", "losses.identity.arcface_weights=null"),
        *("losses.identity.face_loss_weight=2", "losses.identity.needs_conditions=[]"),
    ]
    assert run_command("train.py", *words, folder=tmp_path) == 0
    with (tmp_path / name / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    assert len(rows) == 2
    for row in rows:
        assert float(row["train/identity_coverage"]) == 1
        loss, diffusion, identity = (
            float(row[f"train/loss{part}"]) for part in ("", "_diffusion", "_identity")
        )
        assert math.isclose(loss, diffusion + identity, rel_tol=1e-5)
        assert identity > 0
        assert -1 <= float(row["train/identity_similarity"]) <= 1


def test_stored_embeddings_must_be_of_the_network_that_looks(talking_man, shared, tmp_path, capfd):
    """What is constant is computed once, by prepare.py, and by nobody else's network."""
    shutil.copytree(talking_man / "data", tmp_path / "data")
    assert run_command("prepare.py", "features", "out=data", "features=[identity]", folder=tmp_path) == 0
    words = [
        *(
            "experiment=aniportrait/tiny_stage1",
            "data.shards=data/shards/train-*.tar",
            "callbacks.samples=null",
        ),
        *("data.examples.features=[identity]", f"paths.runs={tmp_path}", "trainer.max_steps=1"),
        *("data.val_span=null", "losses=identity", "losses.identity.face_target=identity"),
        *("losses.identity.recognizer=dlib", "losses.identity.arcface_model=null"),
    ]
    dlib = "losses.identity.arcface_weights=null"
    assert run_command("train.py", *words, dlib, folder=tmp_path) == 0
    with (tmp_path / "aniportrait/tiny_stage1/metrics.csv").open(newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row.get("train/loss")]
    assert float(row["train/loss_identity"]) > 0
    file = shared / "testdata/models/mobileface_v2_256.safetensors"
    other = ["losses.identity.recognizer=mobileface", f"losses.identity.arcface_weights={file}", "name=other"]
    assert run_command("train.py", *words, *other, folder=tmp_path) == 1
    assert "are embeddings of dlib, and the identity loss looks with mobileface_v2" in capfd.readouterr().err
