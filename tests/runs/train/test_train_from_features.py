"""AniPortrait from features alone, through the real commands: no picture is decoded but for samples."""

import csv

import pytest
import torch
from diffusers import AutoencoderKL
from hydra import compose, initialize_config_dir

from portraitgen.data.shards import ShardWriter
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.prepare.compute_features import compute_features
from portraitgen.runs.train.train import train
from tests.synthetic import synthetic_clip
from tests.tiny_clip import tiny_clip


def composed(name, words):
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, words)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two drawn faces with the distribution of their latents and their embeddings; and the models."""
    root = tmp_path_factory.mktemp("data")
    with ShardWriter(root / "out") as writer:
        for seed in range(2):
            writer.write(synthetic_clip(f"face{seed}", num_frames=16, size=64, seed=seed))
    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8),
        latent_channels=48,
        norm_num_groups=2,
    ).save_pretrained(root / "vae")
    tiny_clip(projection_dim=8).save_pretrained(root / "clip")
    words = [
        "features=[vae,clip]",
        f"features.vae.model={root / 'vae'}",
        f"features.clip.model={root / 'clip'}",
    ]
    compute_features(
        composed("prepare_features", [f"out={root / 'out'}", *words, "features.vae.distribution=true"])
    )
    return root


@pytest.fixture
def losses(data, tmp_path):
    """Trains three steps; gives the loss of each."""

    def losses(name, *words):
        codec = [
            "~model.codec.factor",
            "model.codec._target_=portraitgen.diffusion.latents.VAECodec",
            "+model.codec.vae._target_=diffusers.AutoencoderKL.from_pretrained",
            f"+model.codec.vae.pretrained_model_name_or_path={data / 'vae'}",
            "+model.image_encoder._target_=portraitgen.nn.clip_image.ClipImageEncoder.from_pretrained",
            f"+model.image_encoder.path={data / 'clip'}",
        ]
        quick = ["trainer.max_steps=3", "callbacks.samples.num_clips=1", "data.val_samples=1"]
        given = [f"data.shards={data}/out/shards/*.tar", f"paths.runs={tmp_path}", f"name={name}"]
        train(composed("train", ["experiment=aniportrait/tiny_stage1", *given, *quick, *codec, *words]))
        with (tmp_path / name / "metrics.csv").open() as file:
            rows = [*csv.DictReader(file)]
        return torch.tensor([float(row["train/loss"]) for row in rows if row.get("train/loss")])

    yield losses
    torch.use_deterministic_algorithms(False)


def test_features_alone_train_as_pictures_do(losses, tmp_path):
    pictures = losses("pictures")
    features = losses("features", "data.examples.features=[vae,clip]", "data.examples.pictures=[]")
    assert len(pictures) == 3
    torch.testing.assert_close(features, pictures, rtol=5e-3, atol=0)
    assert (tmp_path / "features/samples/step_00000003.png").is_file(), "samples see the pictures"


def test_what_is_missing_is_named(losses):
    with pytest.raises(ValueError, match=r"add the feature clip \(data\.examples\.features=\[vae,clip\]\)"):
        losses("missing", "data.examples.features=[vae]", "data.examples.pictures=[]")
