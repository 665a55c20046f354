"""Tiny pretrained models of the published classes, in folders as pipelines of diffusers lie in."""

import sys
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from tests.nn.text.folders import save_clip, save_t5


def save_stable_diffusion(folder: Path) -> Path:
    """U-Net, VAE (two pixels a latent), text encoder and tokenizer (12 tokens), scheduler."""
    save_clip(folder)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=16,
        norm_num_groups=4,
        sample_size=16,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=32,
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def save_cogvideox(folder: Path) -> Path:
    """Transformer of pictures beside what is noised, VAE (8x8 pixels, 4 frames a latent), T5 of 12 tokens."""
    torch.manual_seed(0)
    CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=8,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=1,
        sample_width=8,
        sample_height=8,
        sample_frames=5,
        max_text_seq_length=12,
    ).save_pretrained(folder / "transformer")
    AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=64,
        sample_width=64,
    ).save_pretrained(folder / "vae")
    return save_t5(folder)


if __name__ == "__main__":  # python -m tests.toys.models models
    save_stable_diffusion(Path(sys.argv[1], "stable-diffusion"))
    save_cogvideox(Path(sys.argv[1], "cogvideox"))
