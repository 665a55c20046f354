"""Training from stored latents and embeddings in place of pictures, and what stands for no picture."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from lightning.pytorch import Callback, Trainer

from portraitgen.diffusion.conditions import ConditionMasks
from portraitgen.diffusion.latents import VAECodec
from portraitgen.nn.clip_image import ClipImageEncoder
from portraitgen.systems.aniportrait.module import AniPortrait
from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.training.step_seed import StepSeed
from tests.systems.aniportrait.tiny_network import GUIDER, UNET
from tests.systems.aniportrait.tiny_training import Batch, fit, make_batch, make_module
from tests.tiny_clip import tiny_clip


def test_precomputed_latents_take_the_place_of_the_pictures() -> None:
    module, batch = make_module(), make_batch(2)
    expected = module.encode(batch)
    latents = {
        "latents": module.codec.encode(batch["frames"]).half().float(),
        "reference_latents": module.codec.encode(batch["reference"]).half().float(),
    }
    found = module.encode({"key": batch["key"], "pose": batch["pose"], **latents})
    torch.testing.assert_close(found.clean, expected.clean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        found.conditions["reference"], expected.conditions["reference"], atol=1e-3, rtol=1e-3
    )
    assert torch.equal(found.conditions["image"], expected.conditions["image"])
    del latents["reference_latents"]
    with pytest.raises(
        ValueError, match=r"hold no reference and no latents of them: .*data\.examples\.features=\[vae\]"
    ):
        module.encode({"key": batch["key"], "pose": batch["pose"], **latents})


@pytest.fixture
def image_encoder() -> ClipImageEncoder:
    return ClipImageEncoder(tiny_clip())


def tiny_vae() -> VAECodec:
    torch.manual_seed(2)
    return VAECodec(
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(4, 4, 8),
            latent_channels=48,
            norm_num_groups=2,
        )
    )


def stored(module: AniPortrait, batch: Batch, *, distribution: bool) -> Batch:
    """The batch as it is read from features alone: no picture, all in float16 on the disk."""
    assert module.image_encoder is not None
    features = {"reference_image_embeds": module.image_encoder(batch["reference"])[:, 0]}
    for prefix, pictures in (("", "frames"), ("reference_", "reference")):
        if distribution:
            features[f"{prefix}latent_distribution"] = module.codec.posterior(batch[pictures]).packed()
        else:
            features[f"{prefix}latents"] = module.codec.encode(batch[pictures])
    kept = {name: batch[name] for name in ("key", "pose")}
    return kept | {name: value.half().float() for name, value in features.items()}


class Losses(Callback):
    """The loss of every step, in order."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.found.append(float(outputs["loss"]))


def test_training_from_features_alone_is_training_from_pictures(image_encoder: ClipImageEncoder) -> None:
    """With the distribution the same draws at the same steps; the mode is another training."""
    batch, found = make_batch(2), {}
    for name in ("pictures", "distribution", "mode"):
        module = make_module(codec=tiny_vae(), image_encoder=image_encoder)
        given = batch if name == "pictures" else stored(module, batch, distribution=name == "distribution")
        losses = Losses()
        fit(module, [given] * 3, losses, StepSeed(0), steps=3)
        found[name] = torch.tensor(losses.found)
    torch.testing.assert_close(found["distribution"], found["pictures"], rtol=2e-3, atol=0)
    assert (found["mode"] / found["pictures"] - 1).abs().max() > 2e-3, "the draws matter"


def test_the_mode_gives_the_losses_of_pictures_that_are_not_sampled(image_encoder: ClipImageEncoder) -> None:
    batch, found = make_batch(2), []
    for given in ("pictures", "features"):
        module = make_module(image_encoder=image_encoder)
        losses = Losses()
        one = batch if given == "pictures" else stored(module, batch, distribution=False)
        fit(module, [one] * 3, losses, StepSeed(0), steps=3)
        found.append(torch.tensor(losses.found))
    torch.testing.assert_close(found[1], found[0], rtol=2e-3, atol=0)


def test_a_stored_distribution_is_drawn_from_anew_at_every_step(image_encoder: ClipImageEncoder) -> None:
    """Mean and spread of many draws are those of sampling from the pictures."""
    module, batch = make_module(codec=tiny_vae(), image_encoder=image_encoder), make_batch(1, frames=1)
    given = stored(module, batch, distribution=True)
    posterior = module.codec.posterior(batch["frames"])
    torch.manual_seed(0)
    for inputs in (batch, given):
        drawn = torch.stack([module.encode(inputs).clean for _ in range(500)])
        error = (drawn.mean(0) - posterior.mean) / posterior.std
        assert error.abs().max() < 5.5 / 500**0.5
        torch.testing.assert_close(drawn.std(0), posterior.std, rtol=0.2, atol=0)
    assert torch.equal(
        module.encode(given).conditions["reference"], module.encode(given).conditions["reference"]
    ), "of the reference the mode"


def test_stored_embeddings_are_those_that_the_network_takes(image_encoder: ClipImageEncoder) -> None:
    module = make_module(image_encoder=image_encoder)
    given = stored(module, make_batch(2), distribution=False)
    with pytest.raises(ValueError, match=r"have 5 numbers, the network takes 6 \(cross_attention_dim\)"):
        module.encode(given | {"reference_image_embeds": torch.zeros(2, 5)})
    without = {name: value for name, value in given.items() if name != "reference_image_embeds"}
    with pytest.raises(ValueError, match=r"add the feature clip \(data"):
        module.encode(without)
    with pytest.raises(ValueError, match=r"this model has no image encoder"):
        make_module().encode(given)


@pytest.mark.parametrize("unconditional", ["zero", "gray"])
def test_a_dropped_image_is_what_sampling_takes_for_no_image(
    image_encoder: ClipImageEncoder, unconditional: str
) -> None:
    """Sample by sample, with the reference dropped beside it; the reference U-Net runs for all of them."""
    module = make_module(image_encoder=image_encoder, unconditional_image=unconditional).eval()
    batch = make_batch(3)
    conditions = module.encode(batch).conditions
    noisy, time = torch.randn(3, 2, 48, 4, 4), torch.tensor([10, 500, 900])
    keep = torch.tensor([True, False, True])
    none = {"zero": torch.zeros(1, 1, 6), "gray": image_encoder.embed_gray()}[unconditional]
    by_hand = conditions | {
        "image": torch.where(keep[:, None, None], conditions["image"], none.expand(3, -1, -1))
    }

    with torch.no_grad():
        both = ConditionMasks(keep={"reference": keep, "image": keep})
        dropped = module.denoise(noisy, time, conditions, both).prediction
        expected = module.denoise(noisy, time, by_hand, ConditionMasks(keep={"reference": keep})).prediction
        kept = module.denoise(noisy, time, conditions, ConditionMasks()).prediction

    torch.testing.assert_close(dropped, expected, atol=0, rtol=0)
    torch.testing.assert_close(dropped[keep], kept[keep], atol=1e-6, rtol=0)
    assert (dropped[~keep] - kept[~keep]).abs().max() > 1e-4


def test_a_lower_precision_is_not_for_the_pose_guider(image_encoder: ClipImageEncoder) -> None:
    """In float16 the variance of upstream's drawings, up to 509, would be infinite."""
    network = AniPortraitNetwork(
        denoising_unet=UNET, reference_unet=UNET, pose_guider=GUIDER | {"norm": "batch"}
    )
    module = make_module(network=network, image_encoder=image_encoder).eval()
    module.cast(torch.bfloat16)
    dtypes = {name: next(part.parameters()).dtype for name, part in module.network.named_children()}
    assert dtypes == {
        "denoising_unet": torch.bfloat16,
        "reference_unet": torch.bfloat16,
        "pose_guider": torch.float32,
    }
    clip = module.sample(make_batch(1), generator=torch.Generator().manual_seed(0))
    assert clip.isfinite().all()


def test_the_gray_image_is_zero_in_the_range_of_clip(image_encoder: ClipImageEncoder) -> None:
    """Upstream sets the encoder's input to zero after its normalisation."""
    expected = image_encoder.model(torch.zeros(1, 3, 32, 32)).image_embeds
    torch.testing.assert_close(image_encoder.embed_gray()[0], expected, atol=1e-5, rtol=0)
    assert image_encoder.embed_gray() is image_encoder.embed_gray()
