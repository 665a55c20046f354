"""Audio2Mesh and Audio2Pose learn, through train.py, from drawn faces that hum as loud as they gape."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from portraitgen.data.shards import ShardWriter
from portraitgen.data.synthetic import synthetic_clip
from portraitgen.runs.audio_models import load_audio_models
from portraitgen.runs.schema import CONF, register_configs
from portraitgen.runs.system import load_system
from portraitgen.runs.train import train

KINDS = ["mesh", "pose"]


@pytest.fixture(autouse=True)
def _not_deterministic_afterwards():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("speech")
    with ShardWriter(root, "train") as writer:
        for seed in range(2):
            clip = synthetic_clip(f"face{seed}", num_frames=60, size=64, seed=seed, sound=True)
            writer.write(clip)
    return root / "shards" / "train-000000.tar"


def composed(kind: str, shards, runs, *overrides: str):
    register_configs()
    words = [f"experiment=aniportrait/tiny_audio2{kind}", f"data.shards={shards}", f"paths.runs={runs}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*words, *overrides])


def losses(run) -> list[float]:
    header, *rows = (line.split(",") for line in (run / "metrics.csv").read_text().splitlines())
    column = header.index("train/loss")
    return [float(row[column]) for row in rows if row[column]]


@pytest.mark.parametrize("kind", KINDS)
def test_one_clip_is_learned(shards, tmp_path, kind):
    one_window_a_clip = ["data.clip_frames=45", "data.val_span=null", "data.batch_size=1"]
    settings = ["trainer.max_steps=160", "optimizer.lr=3e-3", "trainer.log_every_n_steps=10"]
    train(composed(kind, shards, tmp_path, *settings, *one_window_a_clip))
    curve = losses(tmp_path / f"aniportrait/tiny_audio2{kind}")
    assert curve[-1] < 0.2 * curve[0], curve


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_with_the_same_bits(shards, tmp_path, kind):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(composed(kind, shards, whole))
    train(composed(kind, shards, parts, "trainer.max_steps=3"))
    train(composed(kind, shards, parts, "data.num_workers=1"))
    name = f"aniportrait/tiny_audio2{kind}/weights/last.safetensors"
    one, two = load_file(whole / name), load_file(parts / name)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_names_the_setting(shards, tmp_path, kind):
    with pytest.raises(ValueError, match=r"clips have 25 frames a second, model\.frame_rate is 30"):
        train(composed(kind, shards, tmp_path, "model.frame_rate=30"))
    with pytest.raises(ValueError, match=r"hold no sound: set data\.audio=true"):
        train(composed(kind, shards, tmp_path, "data.audio=false", "name=silent"))
    with pytest.raises(ValueError, match=r"insightface106.*no known still points"):
        train(composed(kind, shards, tmp_path, "model.landmark_scheme=insightface106", "name=scheme"))


def test_a_network_of_other_points(shards, tmp_path):
    with pytest.raises(ValueError, match=r"set model\.network\.num_points=68"):
        train(composed("mesh", shards, tmp_path, "model.network.num_points=478"))
    with pytest.raises(ValueError, match=r"model\.network\.coordinates=2"):
        train(composed("mesh", shards, tmp_path, "model.network.coordinates=3"))


def test_a_trained_pair_is_loaded_for_generation(shards, tmp_path):
    for kind in KINDS:
        train(composed(kind, shards, tmp_path, "trainer.max_steps=1"))
    mesh, pose = (tmp_path / f"aniportrait/tiny_audio2{kind}/weights/last.safetensors" for kind in KINDS)

    models = load_audio_models(mesh, pose, models="models", device=torch.device("cpu"))

    sound = 0.1 * torch.randn(3 * 16_000, generator=torch.Generator().manual_seed(0))
    offsets, poses = models.mesh.offsets(sound), models.pose.poses(sound, identity=1)
    assert offsets.shape == (75, 68, 2)
    assert poses.shape == (75, 6)
    assert np.isfinite(offsets).all()
    assert np.isfinite(poses).all()
    assert (models.frame_rate, models.landmark_scheme) == (25, "ibug68")

    with pytest.raises(ValueError, match=r"last\.safetensors holds Audio2Pose, not Audio2Mesh"):
        load_audio_models(pose, pose, models="models", device=torch.device("cpu"))
    with pytest.raises(ValueError, match="holds Audio2Mesh, which draws no pictures"):
        load_system(Path(mesh), changes={}, models="models", device=torch.device("cpu"))


def test_a_pair_of_different_frame_rates(shards, tmp_path):
    for kind, rate in (("mesh", 25), ("pose", 25.1)):
        train(composed(kind, shards, tmp_path, "trainer.max_steps=1", f"model.frame_rate={rate}"))
    mesh, pose = (tmp_path / f"aniportrait/tiny_audio2{kind}/weights/last.safetensors" for kind in KINDS)
    with pytest.raises(ValueError, match=r"frame_rate 25 and 25\.1"):
        load_audio_models(mesh, pose, models="models", device=torch.device("cpu"))
