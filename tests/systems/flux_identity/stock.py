"""Flux at a tiny size: what our pipelines and diffusers' own share."""

from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipVisionConfig, SiglipVisionModel

from portraitgen.diffusion.latents import VAECodec
from portraitgen.systems.flux_identity.network import FluxIdentityNetwork
from tests.systems.flux_identity.tiny import train_adapters

TEXT, POOLED, TOKENS = 24, 12, 5
TARGETS = [
    "transformer.x_embedder",
    "transformer.transformer_blocks.*.norm1.linear",
    "transformer.transformer_blocks.*.attn.to_[qkv]",
    "transformer.transformer_blocks.*.attn.to_out.0",
    "transformer.transformer_blocks.*.ff.net.2",
    "transformer.single_transformer_blocks.*.norm.linear",
    "transformer.single_transformer_blocks.*.proj_mlp",
    "transformer.single_transformer_blocks.*.proj_out",
    "transformer.single_transformer_blocks.*.attn.to_[qkv]",
]


def options(*, fill: bool) -> dict[str, Any]:
    """Four channels of latents; Fill has theirs twice and 2x2 pixels of the hole."""
    return {
        "in_channels": 4 * (4 + 4 + 4) if fill else 16,
        "out_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": TEXT,
        "pooled_projection_dim": POOLED,
        "guidance_embeds": True,
        "axes_dims_rope": (4, 6, 6),
    }


def network(*, fill: bool, alpha: int = 8) -> FluxIdentityNetwork:
    """With an adapter that has a say."""
    torch.manual_seed(0)
    lora = {"identity": {"rank": 4, "alpha": alpha, "targets": TARGETS, "init": "gaussian"}}
    made = FluxIdentityNetwork(transformer=options(fill=fill), lora=lora)
    train_adapters(made)
    return made.eval().requires_grad_(False)


def plain_transformer(ours: FluxIdentityNetwork, *, fill: bool) -> FluxTransformer2DModel:
    """The base of `ours`, without its adapter."""
    made = FluxTransformer2DModel(**options(fill=fill))
    state = {
        name.removeprefix("transformer.").replace(".base_layer.", "."): value
        for name, value in ours.state_dict().items()
        if ".lora_" not in name
    }
    made.load_state_dict(state)
    return made.eval().requires_grad_(False)


def vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


def codec() -> VAECodec:
    return VAECodec(vae())


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True)


def redux_parts() -> tuple[SiglipVisionModel, ReduxImageEncoder]:
    torch.manual_seed(2)
    config = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    embedder = ReduxImageEncoder(redux_dim=16, txt_in_features=TEXT)
    return SiglipVisionModel(config).eval(), embedder.eval()
