"""Audio2Mesh and Audio2Pose learn, through train.py, from drawn faces that hum as loud as they gape."""

import shutil

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import load_file

from portraitgen.data.shards import ShardWriter
from portraitgen.faces.head_pose import pose_matrices, pose_vectors
from portraitgen.nn.speech import standardise
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.prepare.compute_features import compute_features
from portraitgen.runs.prepare.features import face_mesh
from portraitgen.runs.system import load_learner, load_system
from portraitgen.runs.train.train import train
from portraitgen.systems.aniportrait.audio_training import relative_poses
from tests.synthetic import synthetic_clip
from tests.turning_head import TurningHead

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
    one_window_a_clip = ["data.examples.clip_frames=45", "data.val_span=null", "data.batch_size=1"]
    settings = ["trainer.max_steps=120", "optimizer.lr=3e-3", "trainer.log_every_n_steps=10"]
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
    with pytest.raises(ValueError, match=r"hold no sound: set data\.examples\.audio=true"):
        train(composed(kind, shards, tmp_path, "data.examples.audio=false", "name=silent"))
    with pytest.raises(ValueError, match=r"insightface106.*no known still points"):
        train(composed(kind, shards, tmp_path, "model.landmark_scheme=insightface106", "name=scheme"))


def test_a_network_of_other_points(shards, tmp_path):
    with pytest.raises(ValueError, match=r"set model\.network\.num_points=68"):
        train(composed("mesh", shards, tmp_path, "model.network.num_points=478"))


def test_what_was_trained_is_loaded_for_generation(shards, tmp_path):
    cpu = {"changes": {}, "models": "models", "device": torch.device("cpu")}
    sound = 0.1 * torch.randn(3 * 16_000, generator=torch.Generator().manual_seed(0))
    for kind in KINDS:
        train(composed(kind, shards, tmp_path, "trainer.max_steps=1"))
        path = tmp_path / f"aniportrait/tiny_audio2{kind}/weights/last.safetensors"
        learner, facts = load_learner(path, **cpu)
        moved = learner.offsets(sound) if kind == "mesh" else learner.poses(sound, manner=1)
        assert moved.shape == ((75, 68, 2) if kind == "mesh" else (75, 6))
        assert np.isfinite(moved).all()
        assert (facts["system"], learner.frame_rate, learner.landmark_scheme) == ("aniportrait", 25, "ibug68")
        with pytest.raises(ValueError, match=f"holds Audio2{kind.title()}Training, which draws no pictures"):
            load_system(path, **cpu)


def test_relative_poses_are_those_of_the_head_pose_templates():
    turns = np.cumsum(np.random.default_rng(0).normal(size=(12, 6)), axis=0) * (9, 9, 9, 1, 1, 1)
    matrices = 1.1 * pose_matrices(turns)
    matrices[:, 3, 3] = 1
    expected = pose_vectors(np.linalg.inv(matrices[0]) @ matrices)
    found = relative_poses(torch.from_numpy(matrices)[None])
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_in_3d_the_features_are_learned(shards, tmp_path, kind):
    name = {"mesh": "mesh", "pose": "head_pose"}[kind]
    words = ["model.in_3d=true"] if kind == "pose" else ["model.network.coordinates=3"]
    with pytest.raises(ValueError, match=rf"hold no {name}: set data\.examples\.features=\[{name}\]"):
        train(composed(kind, shards, tmp_path, *words))
    model = instantiate(composed(kind, shards, tmp_path, *words).model, _convert_="all")
    poses = torch.eye(4).repeat(2, 12, 1, 1)
    poses[:, :, 0, 3] = torch.arange(12.0)
    batch = {
        "key": ["a-000000000", "b-000000000"],
        "audio": torch.randn(2, 12 * 640, generator=torch.Generator().manual_seed(0)),
        "landmarks": torch.zeros(2, 12, 478, 2),
        "mesh": torch.full((2, 12, 68, 3), 2.0),
        "reference_mesh": torch.full((2, 68, 3), 0.5),
        "head_pose": poses,
    }
    loss = model.eval().losses(batch, step=0, training=False)["loss"]
    if kind == "mesh":
        assert loss == 1.5  # a fresh network moves nothing
    else:
        with torch.no_grad():
            predicted = model.network.unroll(standardise(batch["audio"]), 12, model.manners(batch["key"]))
        wanted = torch.tensor([0.0, 0, 0, 1, 0, 0]) * torch.arange(12.0)[:, None]
        torch.testing.assert_close(loss, (predicted - wanted).abs().mean())


@pytest.fixture
def shards_in_3d(shards, tmp_path, monkeypatch):
    """The same clips with the features `mesh` and `head_pose`, of a head that turns."""
    shutil.copytree(shards.parents[1], tmp_path / "data")
    (tmp_path / "face_landmarker.task").write_bytes(b"stand-in")
    boxes = np.tile(np.array([0, 0, 64, 64], np.float32), (60, 1))
    monkeypatch.setattr(face_mesh, "_backend", lambda model: TurningHead(boxes))
    models = [f"features.{name}.model={tmp_path}/face_landmarker.task" for name in ("mesh", "head_pose")]
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [f"out={tmp_path / 'data'}", "features=[mesh,head_pose]", *models]
        compute_features(compose("prepare_features", words))
    return tmp_path / "data/shards/train-000000.tar"


@pytest.mark.parametrize("kind", KINDS)
def test_in_3d_a_run_trains_on_precomputed_features(shards_in_3d, tmp_path, kind):
    """Features that are no latents are none of a codec, which these models do not have."""
    words = ["data.examples.features=[head_pose]", "model.in_3d=true"]
    if kind == "mesh":
        words = [
            "data.examples.features=[mesh]",
            "model.network.num_points=468",
            "model.network.coordinates=3",
        ]
    scheme = "model.landmark_scheme=mediapipe478"
    train(composed(kind, shards_in_3d, tmp_path, *words, scheme, "trainer.max_steps=2"))
    assert len(losses(tmp_path / f"aniportrait/tiny_audio2{kind}")) == 2
