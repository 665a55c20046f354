"""Latent codecs: pixels to latents and back, chunks that change nothing, a VAE that stays frozen."""

from pathlib import Path

import av
import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from portraitgen.diffusion.latents import PixelCodec, Posterior, VAECodec


def tiny_vae(**options: float) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        latent_channels=4,
        norm_num_groups=4,
        **options,
    )


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_pixel_codec_is_exactly_invertible(factor: int, leading: tuple[int, ...]) -> None:
    codec = PixelCodec(factor)
    images = torch.rand(*leading, 3, 16, 24) * 2 - 1
    latents = codec.encode(images)
    assert latents.shape == (*leading, codec.channels, 16 // factor, 24 // factor)
    assert torch.equal(codec.decode(latents), images)
    assert torch.equal(codec.encode(codec.decode(latents)), latents)


def test_a_pixel_latent_holds_one_block() -> None:
    images = torch.zeros(3, 8, 8)
    images[1, 5, 6] = 1.0
    latents = PixelCodec(4).encode(images)
    # Green, row 1 and column 2 of the block at row 1, column 1.
    assert latents.nonzero().tolist() == [[1 * 16 + 1 * 4 + 2, 1, 1]]


def test_pixel_latents_of_real_frames_have_near_unit_variance(carphone: Path) -> None:
    with av.open(str(carphone)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    pixels = torch.from_numpy(frame).permute(2, 0, 1) / 127.5 - 1
    assert PixelCodec(4).encode(pixels).std().item() == pytest.approx(1.0, abs=0.2)


def test_vae_codec_sizes_follow_the_config() -> None:
    codec = VAECodec(tiny_vae())
    assert (codec.channels, codec.factor) == (4, 4)
    latents = codec.encode(torch.rand(2, 3, 3, 16, 24))
    assert latents.shape == (2, 3, 4, 4, 6)
    assert codec.decode(latents).shape == (2, 3, 3, 16, 24)
    assert codec.encode(torch.rand(3, 16, 24)).shape == (4, 4, 6), "one image without a batch"


def test_scaling_and_shift_are_the_configs() -> None:
    vae = tiny_vae(scaling_factor=0.3611, shift_factor=0.1159)
    codec, images = VAECodec(vae), torch.rand(2, 3, 16, 16) * 2 - 1
    latents = codec.encode(images)
    with torch.no_grad():
        raw = vae.encode(images).latent_dist.mode()
        torch.testing.assert_close(latents, (raw - 0.1159) * 0.3611)
        torch.testing.assert_close(codec.decode(latents), vae.decode(raw).sample)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
@pytest.mark.parametrize("sample", [False, True])
def test_chunks_change_nothing(chunk: int, sample: bool) -> None:
    vae, images = tiny_vae(), torch.rand(2, 3, 3, 16, 16)
    whole, parts = VAECodec(vae, chunk=6), VAECodec(vae, chunk=chunk)
    latents, chunked = (
        codec.encode(images, sample=sample, generator=torch.Generator().manual_seed(0))
        for codec in (whole, parts)
    )
    torch.testing.assert_close(chunked, latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.decode(latents), whole.decode(latents), atol=1e-5, rtol=0)


def test_samples_spread_around_the_mode_as_the_posterior_says() -> None:
    vae, image = tiny_vae(), torch.rand(1, 3, 16, 16)
    codec = VAECodec(vae, chunk=64)
    posterior = vae.encode(image).latent_dist
    scale = vae.config.scaling_factor
    torch.manual_seed(0)
    drawn = codec.encode(image.expand(2000, -1, -1, -1), sample=True)
    error = (drawn.mean(0) - codec.encode(image)[0]) / (posterior.std[0] * scale)
    assert error.abs().max() < 5 / 2000**0.5
    torch.testing.assert_close(drawn.std(0), posterior.std[0] * scale, rtol=0.1, atol=0)
    assert torch.equal(codec.encode(image), codec.encode(image)), "without sampling nothing is random"


def test_the_vae_stays_frozen_and_in_eval_mode() -> None:
    parent = nn.ModuleDict({"codec": VAECodec(tiny_vae())}).train()
    codec = parent["codec"]
    assert not any(module.training for module in codec.modules())
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    latents = codec.encode(images, sample=True)
    assert not latents.requires_grad
    # Losses on decoded clean estimates reach the network through the frozen decoder.
    latents.requires_grad_()
    codec.decode(latents).square().sum().backward()
    assert latents.grad is not None
    assert bool((latents.grad != 0).any())
    assert all(parameter.grad is None for parameter in codec.parameters())


def test_a_half_precision_vae_takes_and_gives_float32() -> None:
    codec = VAECodec(tiny_vae().to(torch.bfloat16))
    images = torch.rand(1, 3, 16, 16)
    latents = codec.encode(images)
    assert latents.dtype == torch.float32
    assert codec.encode(images, sample=True).dtype == torch.float32
    assert codec.decode(latents).dtype == torch.float32
    torch.testing.assert_close(latents, VAECodec(tiny_vae()).encode(images), atol=0.02, rtol=0)


def test_mean_and_std_of_the_config_are_those_of_each_channel() -> None:
    """As diffusers' SDXL pipelines use them."""
    mean, std = [0.1, -0.2, 0.3, -0.4], [0.5, 1.5, 2.0, 0.8]
    vae = tiny_vae(scaling_factor=0.5, latents_mean=mean, latents_std=std)
    codec, images = VAECodec(vae), torch.rand(2, 3, 16, 16) * 2 - 1
    latents = codec.encode(images)
    with torch.no_grad():
        raw = vae.encode(images).latent_dist.mode()
        means, stds = (torch.tensor(each).view(-1, 1, 1) for each in (mean, std))
        torch.testing.assert_close(latents, (raw - means) * 0.5 / stds)
        torch.testing.assert_close(codec.decode(latents), vae.decode(raw).sample)
    # The numbers stay exact in a VAE of half precision.
    half = VAECodec(tiny_vae(scaling_factor=0.5, latents_mean=mean, latents_std=std).to(torch.bfloat16))
    assert torch.equal(half._scale.apply(torch.zeros(4, 1, 1)), codec._scale.apply(torch.zeros(4, 1, 1)))


def test_the_posterior_is_what_samples_are_drawn_from() -> None:
    codec, images = VAECodec(tiny_vae(scaling_factor=0.3, shift_factor=0.1)), torch.rand(2, 3, 3, 16, 16)
    posterior = codec.posterior(images)
    assert torch.equal(posterior.mean, codec.encode(images))
    drawn = posterior.draw(generator=torch.Generator().manual_seed(0))
    expected = codec.encode(images, sample=True, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, expected)
    assert (drawn - posterior.mean).abs().max() > 1e-3
    packed = posterior.packed()
    assert packed.shape == (2, 3, 2, 4, 4, 4)
    assert all(
        torch.equal(one, other) for one, other in zip(Posterior.unpacked(packed), posterior, strict=True)
    )
    point = PixelCodec(4).posterior(images)
    assert torch.equal(point.draw(), PixelCodec(4).encode(images)), "a codec without a distribution"


def test_parts_of_a_clip_of_pictures() -> None:
    codec, latents = VAECodec(tiny_vae()), torch.randn(2, 7, 4, 4, 4)
    frames = codec.decode(latents)
    assert [part.shape[1] for part in codec.stream(latents, frames=3)] == [3, 3, 1]
    torch.testing.assert_close(torch.cat([*codec.stream(latents, frames=3)], dim=1), frames)
    torch.testing.assert_close(codec.decode_span(latents, 2, 4), frames[:, codec.frames_of(2, 4)])
    assert (codec.num_latents(7), codec.num_frames(7), codec.frames_of(2, 4)) == (7, 7, slice(2, 4))


def test_sizes_that_do_not_divide() -> None:
    for codec in (PixelCodec(4), VAECodec(tiny_vae())):
        with pytest.raises(ValueError, match="18x16 pixels: both must be multiples of 4"):
            codec.encode(torch.zeros(1, 3, 18, 16))
    with pytest.raises(ValueError, match="factor"):
        PixelCodec(0)
    with pytest.raises(ValueError, match="chunk"):
        VAECodec(tiny_vae(), chunk=0)
