"""Tokens of Flux against diffusers' own, and its VAE through our codec."""

import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline

from portraitgen.diffusion.latents import VAECodec
from portraitgen.diffusion.packing import pack_latents, token_positions, unpack_latents


def test_tokens_are_those_of_the_stock_pipeline() -> None:
    latents = torch.randn(2, 16, 6, 8)
    tokens = pack_latents(latents)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, 2, 16, 6, 8))
    assert torch.equal(unpack_latents(tokens, (6, 8)), latents)
    assert torch.equal(unpack_latents(tokens, (6, 8)), FluxPipeline._unpack_latents(tokens, 48, 64, 8))
    expected = FluxPipeline._prepare_latent_image_ids(2, 3, 4, torch.device("cpu"), torch.float32)
    assert torch.equal(token_positions((6, 8)), expected)
    with pytest.raises(ValueError, match=r"5x8 cannot be packed .* multiples of twice the codec's factor"):
        pack_latents(latents[:, :, :5])
    with pytest.raises(ValueError, match="6x7"):
        token_positions((6, 7))


def test_a_flux_vae_scales_and_shifts_as_the_stock_pipeline() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        latent_channels=16,
        norm_num_groups=2,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    pipeline = FluxPipeline(None, vae, None, None, None, None, None)
    codec, images = VAECodec(vae), torch.rand(2, 3, 16, 24) * 2 - 1
    latents = codec.encode(images)
    with torch.no_grad():
        raw = vae.encode(images).latent_dist.mode()
        torch.testing.assert_close(latents, (raw - 0.1159) * 0.3611)
        tokens = pack_latents(latents)
        unpacked = pipeline._unpack_latents(tokens, 16, 24, pipeline.vae_scale_factor)
        expected = vae.decode(unpacked / vae.config.scaling_factor + vae.config.shift_factor).sample
        torch.testing.assert_close(codec.decode(unpack_latents(tokens, (8, 12))), expected)
