"""`prepare.py features` through its real configuration, with tiny networks of the published classes."""

import pytest
import torch
from hydra import compose, initialize_config_dir

from portraitgen.data.datamodule import ClipDataModule
from portraitgen.data.sample import DataError
from portraitgen.data.shards import ShardWriter
from portraitgen.data.synthetic import synthetic_clip
from portraitgen.runs.check_latents import check_latents
from portraitgen.runs.compute_features import compute_features
from portraitgen.runs.schema import register_configs


@pytest.fixture
def run(repository, caplog):
    """Compute features with overrides of conf/prepare_features.yaml; gives what was said."""

    def with_overrides(*words):
        register_configs()
        with initialize_config_dir(str(repository / "conf"), version_base="1.3"):
            config = compose("prepare_features", list(words))
        caplog.clear()
        with caplog.at_level("INFO", logger="portraitgen.runs.compute_features"):
            compute_features(config)
        return caplog.messages

    return with_overrides


@pytest.fixture
def root(tmp_path):
    with ShardWriter(tmp_path / "data") as writer:
        for number in range(2):
            writer.write(synthetic_clip(f"clip{number}", num_frames=18, size=64, seed=number))
    return tmp_path / "data"


def batches(root, **settings):
    module = ClipDataModule(
        str(root / "shards" / "*.tar"), clip_frames=5, batch_size=2, samples_per_epoch=6, **settings
    )
    return [module.on_after_batch_transfer(batch, 0) for batch in module.train_dataloader()]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    from diffusers.models import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"block_out_channels": (8, 8, 16), "norm_num_groups": 4, "latent_channels": 4}
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, **blocks
    )
    folder = tmp_path_factory.mktemp("vae")
    model.save_pretrained(folder)
    return folder


def test_latents_are_what_encoding_the_frames_gives(run, root, vae):
    from diffusers.models import AutoencoderKL

    from portraitgen.diffusion.latents import VAECodec

    words = [f"out={root}", "features=[vae]", f"features.vae.model={vae}"]
    messages = run(*words, "features.vae.chunk=7")
    assert messages[-1].endswith(": 2 samples written")
    codec = VAECodec(AutoencoderKL.from_pretrained(vae))
    for batch in batches(root, features=["vae"]):
        assert batch["latents"].shape == (2, 5, 4, 16, 16)
        for latents, pictures in (("latents", "frames"), ("reference_latents", "reference")):
            expected = codec.encode(batch[pictures])
            torch.testing.assert_close(batch[latents], expected, rtol=2e-3, atol=2e-3)
    assert "1 finished before" in run(*words)[0], "another chunk is no other feature"


def test_latents_of_another_codec_are_refused_before_training(run, root, vae):
    from diffusers.models import AutoencoderKL

    from portraitgen.diffusion.latents import PixelCodec, VAECodec

    run(f"out={root}", "features=[vae]", f"features.vae.model={vae}")
    shards = str(root / "shards" / "*.tar")
    model = AutoencoderKL.from_pretrained(vae)
    check_latents(shards, ["vae"], VAECodec(model))
    check_latents(shards, ["vae"], VAECodec(model.to(torch.bfloat16)))
    with pytest.raises(DataError, match=r"they are \[4, 16, 16\] and \[48, 16, 16\]"):
        check_latents(shards, ["vae"], PixelCodec(4))
    torch.manual_seed(1)
    other = VAECodec(AutoencoderKL.from_config(model.config))
    with pytest.raises(DataError, match=r"vae@\w{8} are not the latents of this model's codec \(of clip0-0"):
        check_latents(shards, ["vae"], other)


def test_other_weights_are_another_feature(run, root, vae, tmp_path):
    from diffusers.models import AutoencoderKL

    run(f"out={root}", "features=[vae]", f"features.vae.model={vae}")
    model = AutoencoderKL.from_pretrained(vae)
    with torch.no_grad():
        model.quant_conv.weight[0, 0] += 1
    model.save_pretrained(tmp_path / "other")
    run(f"out={root}", "features=[vae]", f"features.vae.model={tmp_path / 'other'}")
    assert len(list((root / "aux").glob("vae@*"))) == 2


def test_what_cannot_be_done_is_said_before_the_work(run, root, tmp_path):
    with pytest.raises(ValueError, match=r"name what to compute, such as 'features=\[vae\]'"):
        run(f"out={root}")
    with pytest.raises(
        ValueError, match=r"features\.vae\.model=\S+: no AutoencoderKL there, neither as a folder"
    ):
        run(f"out={root}", "features=[vae]", f"features.vae.model={tmp_path}")
    with pytest.raises(ValueError, match=r"holds no shards"):
        run(f"out={tmp_path / 'none'}", "features=[vae]", f"features.vae.model={tmp_path}")
    assert not (root / "aux").exists()
