"""Codecs of causal video VAEs against the arithmetic of the stock pipelines, and decoded part by part."""

from collections.abc import Callable

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan, CogVideoXImageToVideoPipeline
from torch import Tensor, nn

from portraitgen.diffusion.latents import Posterior
from portraitgen.diffusion.video_latents import CogVideoXCodec, PixelVideoCodec, VideoCodec, WanCodec
from tests.tiny_vae import tiny_cogvideox

SIZE = 32


def cogvideox(**options: object) -> AutoencoderKLCogVideoX:
    return tiny_cogvideox(sample_height=SIZE, sample_width=SIZE, **options).eval()


def wan(**options: object) -> AutoencoderKLWan:
    torch.manual_seed(0)
    settings = {
        "base_dim": 4,
        "z_dim": 4,
        "dim_mult": [1, 1, 2, 2],
        "num_res_blocks": 1,
        "latents_mean": [0.1, -0.2, 0.3, -0.4],
        "latents_std": [0.5, 1.5, 2.0, 0.8],
    }
    return AutoencoderKLWan(**settings | options).eval()


def wan_patches() -> AutoencoderKLWan:
    """As Wan 2.2: the VAE works on patches of 2x2 pixels, with residual blocks, another size of decoder."""
    return wan(patch_size=2, in_channels=12, out_channels=12, is_residual=True, scale_factor_spatial=16)


CODECS: dict[str, Callable[..., VideoCodec]] = {
    "cogvideox": lambda **options: CogVideoXCodec(cogvideox(), **options),
    "wan": lambda **options: WanCodec(wan(), **options),
    "wan_patches": lambda **options: WanCodec(wan_patches(), **options),
}
every = pytest.mark.parametrize("name", CODECS)


def clips(num_frames: int, *, batch: int = 1, size: int = SIZE) -> Tensor:
    """Smooth in space and time, as pictures are."""
    torch.manual_seed(1)
    coarse = torch.rand(batch, 3, max(num_frames // 4, 2), 4, 4) * 2 - 1
    fine = nn.functional.interpolate(coarse, (num_frames, size, size), mode="trilinear")
    return fine.transpose(1, 2)


def stock_latents(vae: nn.Module, frames: Tensor) -> Tensor:
    """Mode of the posterior in the VAE's units, `[B, t, C, h, w]`."""
    with torch.no_grad():
        return vae.encode(frames.transpose(1, 2)).latent_dist.mode().transpose(1, 2)


@every
@pytest.mark.parametrize(("num_frames", "num_latents"), [(1, 1), (5, 2), (9, 3), (13, 4), (17, 5)])
def test_frames_and_latents(name: str, num_frames: int, num_latents: int) -> None:
    codec = CODECS[name]()
    side = SIZE // codec.factor
    latents = codec.encode(clips(num_frames, batch=2))
    assert latents.shape == (2, num_latents, codec.channels, side, side)
    assert codec.num_latents(num_frames) == num_latents
    assert codec.num_frames(num_latents) == num_frames
    assert codec.decode(latents).shape == (2, num_frames, 3, SIZE, SIZE)


def test_factors_are_those_of_the_published_configs() -> None:
    with torch.device("meta"):
        found = [
            CogVideoXCodec(
                AutoencoderKLCogVideoX(
                    down_block_types=("CogVideoXDownBlock3D",) * 4, block_out_channels=(128, 256, 256, 512)
                )
            ),
            WanCodec(AutoencoderKLWan()),
        ]
    assert [(each.channels, each.factor, each.time_factor) for each in found] == [(16, 8, 4)] * 2
    codec = CODECS["wan_patches"]()
    assert (codec.factor, codec.time_factor) == (16, 4)
    assert codec.factor == codec.vae.config.scale_factor_spatial


@every
@pytest.mark.parametrize("num_frames", [0, 2, 48])
def test_a_wrong_number_of_frames(name: str, num_frames: int) -> None:
    codec = CODECS[name]()
    with pytest.raises(ValueError, match=rf"clips of {num_frames} frames: this codec takes 1 \+ 4k frames"):
        codec.encode(torch.zeros(1, num_frames, 3, SIZE, SIZE))
    with pytest.raises(ValueError, match="such as 45 or 49"):
        codec.num_latents(48)
    with pytest.raises(ValueError, match=rf"36x32 pixels: both must be multiples of {codec.factor}"):
        codec.encode(torch.zeros(1, 5, 3, 36, 32))


@pytest.mark.parametrize("invert", [False, True])
def test_cogvideox_is_what_its_pipeline_does(invert: bool) -> None:
    vae = cogvideox(scaling_factor=0.7, invert_scale_latents=invert)
    codec, frames = CogVideoXCodec(vae), clips(17, batch=2)
    latents = codec.encode(frames)
    torch.testing.assert_close(latents, stock_latents(vae, frames) * 0.7)
    pipeline = CogVideoXImageToVideoPipeline(None, None, vae, None, None)
    with torch.no_grad():
        expected = pipeline.decode_latents(latents).transpose(1, 2)
    torch.testing.assert_close(codec.decode(latents), expected)

    condition = codec.encode_image(frames[:, 0])
    factor = 1 / 0.7 if invert else 0.7
    torch.testing.assert_close(condition, stock_latents(vae, frames[:, :1]) * factor)
    torch.testing.assert_close(codec.image_posterior(frames[:, 0]).mean, condition)
    drawn, expected = (
        each(generator=torch.Generator().manual_seed(3))
        for each in (
            codec.image_posterior(frames[:, 0]).draw,
            lambda generator: codec.encode_image(frames[:, 0], sample=True, generator=generator),
        )
    )
    torch.testing.assert_close(drawn, expected)


def test_an_even_number_of_latents_shows_the_first_frame_once() -> None:
    """The VAE shows it four times: four equal frames, of which one is kept."""
    vae = cogvideox()
    codec = CogVideoXCodec(vae)
    latents = codec.encode(clips(13))
    with torch.no_grad():
        expected = vae.decode(latents.transpose(1, 2) / codec.vae.config.scaling_factor).sample.transpose(
            1, 2
        )
    assert expected.shape[1] == 16
    torch.testing.assert_close(expected[:, :3], expected[:, 3:4].expand(-1, 3, -1, -1, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(codec.decode(latents), expected[:, 3:])


@pytest.mark.parametrize("make", [wan, wan_patches])
def test_wan_is_what_its_pipeline_does(make: Callable[[], AutoencoderKLWan]) -> None:
    vae = make()
    codec, frames = WanCodec(vae), clips(9, batch=2)
    mean, std = (torch.tensor(vae.config[name]).view(-1, 1, 1) for name in ("latents_mean", "latents_std"))
    raw = stock_latents(vae, frames)
    latents = codec.encode(frames)
    torch.testing.assert_close(latents, (raw - mean) / std)
    with torch.no_grad():
        expected = vae.decode((latents * std + mean).transpose(1, 2)).sample.transpose(1, 2)
    torch.testing.assert_close(codec.decode(latents).clamp(-1, 1), expected)


def test_one_mean_and_std_for_each_channel() -> None:
    with pytest.raises(ValueError, match="3 latents_std for 4 channels"):
        WanCodec(wan(latents_std=[1.0, 1.0, 1.0]))


@every
def test_the_posterior_is_what_encode_draws_from(name: str) -> None:
    codec, frames = CODECS[name](), clips(5, batch=2)
    posterior = codec.posterior(frames)
    torch.testing.assert_close(posterior.mean, codec.encode(frames))
    drawn, expected = (
        each(generator=torch.Generator().manual_seed(3))
        for each in (posterior.draw, lambda generator: codec.encode(frames, sample=True, generator=generator))
    )
    torch.testing.assert_close(drawn, expected)
    assert not torch.equal(drawn, posterior.mean)
    again = Posterior.unpacked(posterior.packed())
    assert all(torch.equal(one, other) for one, other in zip(again, posterior, strict=True))


@every
@pytest.mark.parametrize("num_latents", [1, 3, 4, 7])
def test_a_stream_is_the_clip_in_parts(name: str, num_latents: int) -> None:
    codec = CODECS[name]()
    torch.manual_seed(2)
    latents = torch.randn(2, num_latents, 4, 2, 2)
    with torch.no_grad():
        parts = [*codec.stream(latents)]
        whole = codec.decode(latents)
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert max(part.shape[1] for part in parts) <= 9


class Largest(torch.overrides.TorchFunctionMode):
    """The largest tensor that was made, in numbers."""

    numbers = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.numbers = max(self.numbers, made.numel())
        return made


@every
def test_a_stream_of_a_long_clip_takes_the_memory_of_a_part(name: str) -> None:
    codec, largest = CODECS[name](), []
    for num_latents in (5, 31):
        latents = torch.randn(1, num_latents, 4, 2, 2)
        with torch.no_grad(), Largest() as made:
            for _ in codec.stream(latents):
                pass
        largest.append(made.numbers)
    assert largest[0] == largest[1]


@every
@pytest.mark.parametrize("num_latents", [3, 4])
def test_tiles_and_slices_are_the_stock_ones(name: str, num_latents: int) -> None:
    whole, codec = CODECS[name](), CODECS[name](tiling=True, slicing=True)
    side = 64 if name == "wan_patches" else 40
    pixels = {"tile_sample_min_height": 32, "tile_sample_min_width": 32}
    wan_strides = {"tile_sample_stride_height": 16, "tile_sample_stride_width": 16}
    overlaps = {"tile_overlap_factor_height": 0.25, "tile_overlap_factor_width": 0.5}
    codec.vae.enable_tiling(**pixels, **(overlaps if name == "cogvideox" else wan_strides))
    torch.manual_seed(2)
    latents = torch.randn(2, num_latents, 4, side // codec.factor, side // codec.factor)
    with torch.no_grad():
        unscaled = codec._scale.invert(latents).transpose(1, 2)
        expected = codec.vae.decode(unscaled).sample.transpose(1, 2)[:, -codec.num_frames(num_latents) :]
        found = codec.decode(latents)
        limit = (-1, 1) if name != "cogvideox" else (None, None)
        torch.testing.assert_close(found.clamp(*limit) if limit[0] else found, expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(found, whole.decode(latents), atol=1e-4), "tiles were used"
        frames = clips(5, batch=2, size=side)
        torch.testing.assert_close(
            codec.encode(frames), codec._scale.apply(stock_latents(codec.vae, frames)), atol=1e-5, rtol=1e-4
        )


@every
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 3), (1, 2), (3, 5), (6, 7)])
@pytest.mark.parametrize("num_latents", [7, 8])
def test_a_span_is_those_frames_of_the_clip(name: str, start: int, stop: int, num_latents: int) -> None:
    codec = CODECS[name]()
    torch.manual_seed(2)
    latents = torch.randn(1, num_latents, 4, 2, 2)
    with torch.no_grad():
        frames = codec.decode(latents)[:, codec.frames_of(start, stop)]
    latents.requires_grad_()
    span = codec.decode_span(latents, start, stop)
    torch.testing.assert_close(span, frames)
    assert span.shape[1] == 4 * (stop - start) - 3 * (start == 0)
    span.square().sum().backward()
    assert latents.grad is not None
    reached = latents.grad.abs().sum(dim=(0, 2, 3, 4)).nonzero()[:, 0].tolist()
    assert set(range(start, stop)) <= set(reached)
    # The VAE decodes two or three latents together: no further.
    assert min(reached) >= start - 2
    assert max(reached) <= stop + 1
    assert all(parameter.grad is None for parameter in codec.parameters())


@every
def test_less_context_is_cheaper_and_further_off(name: str) -> None:
    codec = CODECS[name]()
    torch.manual_seed(2)
    latents = torch.randn(1, 9, 4, 2, 2)
    with torch.no_grad():
        exact = codec.decode_span(latents, 7, 9)
        errors = [
            (codec.decode_span(latents, 7, 9, context=context) - exact).abs().mean().item()
            for context in (1, 3, 7, 20)
        ]
    assert errors[0] > errors[1] > 1e-6
    assert errors[2:] == [0, 0]
    for span in ((3, 3), (-1, 2), (8, 10)):
        with pytest.raises(ValueError, match="of a clip that has 9"):
            codec.decode_span(latents, *span)
    with pytest.raises(ValueError, match="at least 1 latent"):
        codec.decode_span(latents, 3, 4, context=0)


@every
def test_a_video_vae_stays_frozen_and_takes_its_own_precision(name: str) -> None:
    codec = CODECS[name]().train()
    assert not any(module.training for module in codec.modules())
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    frames = clips(5)
    expected = codec.encode(frames)
    codec.to(torch.bfloat16)
    latents = codec.encode(frames)
    assert latents.dtype == codec.decode(latents).dtype == torch.float32
    torch.testing.assert_close(latents, expected, atol=0.05, rtol=0.05)
    assert codec.encode(frames.to(torch.bfloat16), sample=True).dtype == torch.bfloat16


@every
def test_axes_before_time_are_kept(name: str) -> None:
    codec, frames = CODECS[name](), clips(5, batch=4)
    latents = codec.encode(frames.unflatten(0, (2, 2)))
    torch.testing.assert_close(latents.flatten(0, 1), codec.encode(frames))
    with torch.no_grad():
        torch.testing.assert_close(codec.decode(latents).flatten(0, 1), codec.decode(latents.flatten(0, 1)))


@pytest.mark.parametrize("num_frames", [1, 5, 9])
def test_pixels_of_clips_are_given_back_whole_and_in_parts(num_frames: int) -> None:
    codec, frames = PixelVideoCodec(4), clips(num_frames)
    latents = codec.encode(frames)
    assert latents.shape == (1, codec.num_latents(num_frames), 192, SIZE // 4, SIZE // 4)
    assert torch.equal(codec.decode(latents), frames)
    assert torch.equal(torch.cat([*codec.stream(latents, frames=4)], dim=1), frames)
    last = latents.shape[1]
    assert torch.equal(codec.decode_span(latents, last - 1, last), frames[:, codec.frames_of(last - 1, last)])
    assert torch.equal(codec.encode_image(frames[:, 0]), latents[:, :1])
    with pytest.raises(ValueError, match="1 \\+ 4k frames"):
        codec.encode(clips(6))
