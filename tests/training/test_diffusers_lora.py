"""Adapters go to stock diffusers pipelines and come back, with alpha other than the rank."""

import json

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from torch import nn

from portraitgen.nn.lora import add_lora, lora_settings, plain_name
from portraitgen.training.diffusers_lora import FILE_NAME, find_adapters, read_adapter, write_adapter


def stable_diffusion(component):
    vae = AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=4)
    pipe = StableDiffusionPipeline(vae, None, None, component, DDIMScheduler(), None, None, None, False)
    return pipe, {"prompt_embeds": (1, 3, 12), "negative_prompt_embeds": (1, 3, 12), "latents": (1, 4, 8, 8)}


def cogvideox(component):
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
    )
    pipe = CogVideoXPipeline(None, None, vae, component, CogVideoXDDIMScheduler())
    size = {"height": 16, "width": 16, "num_frames": 5}
    embeds = {"prompt_embeds": (1, 6, 12), "negative_prompt_embeds": (1, 6, 12)}
    return pipe, {**embeds, "latents": (1, 2, 4, 2, 2), **size}


def flux(component):
    vae = AutoencoderKL(block_out_channels=(8,), latent_channels=1, norm_num_groups=4, shift_factor=0.0)
    pipe = FluxPipeline(FlowMatchEulerDiscreteScheduler(), vae, None, None, None, None, component)
    size = {"height": 8, "width": 8}
    return pipe, {
        "prompt_embeds": (1, 3, 12),
        "pooled_prompt_embeds": (1, 10),
        "latents": (1, 16, 4),
        **size,
    }


def unet_model():
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=12,
    )


def cogvideox_model():
    return CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=12,
        num_layers=2,
        sample_width=2,
        sample_height=2,
        sample_frames=5,
        max_text_seq_length=6,
    )


def flux_model():
    return FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        axes_dims_rope=(2, 2, 4),
    )


CASES = {
    "stable_diffusion": ("unet", unet_model, stable_diffusion, ["unet.*.to_[qkv]", "unet.conv_in"]),
    "cogvideox": ("transformer", cogvideox_model, cogvideox, ["transformer.*.attn1.to_[qkv]"]),
    "flux": ("transformer", flux_model, flux, ["transformer.*.attn.to_[qkv]", "transformer.proj_out"]),
}


def draw(pipe, shapes):
    source = torch.Generator().manual_seed(1)
    inputs = {
        name: torch.randn(shape, generator=source) if isinstance(shape, tuple) else shape
        for name, shape in shapes.items()
    }
    pipe.set_progress_bar_config(disable=True)
    return pipe(**inputs, num_inference_steps=2, output_type="latent", return_dict=False)[0]


def adapted(case, **changes):
    """A network with a trained adapter, and its pipeline with the same base but without."""
    part, build, make, targets = CASES[case]
    torch.manual_seed(0)
    network = nn.ModuleDict({part: build().eval()})
    torch.manual_seed(0)
    pipe, shapes = make(build().eval())
    add_lora(network, {"face": {"rank": 4, "alpha": 6, "targets": targets} | changes})
    source = torch.Generator().manual_seed(2)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=source)
    return network, pipe, shapes


def exported(network):
    state = {plain_name(name): tensor for name, tensor in network.state_dict().items()}
    return find_adapters(state, lora_settings(network))


@pytest.mark.parametrize("case", CASES)
def test_a_stock_pipeline_draws_the_same_and_what_it_saves_comes_back(case, tmp_path):
    network, pipe, shapes = adapted(case)
    part, _, make, _ = CASES[case]
    expected = draw(make(network[part])[0], shapes)
    plain = draw(pipe, shapes)
    (adapter,) = exported(network).values()
    write_adapter(tmp_path, adapter)

    pipe.load_lora_weights(tmp_path)
    loaded = draw(pipe, shapes)
    assert (loaded - expected).abs().max() <= 1e-6
    assert (loaded - plain).abs().max() > 1e-3

    from peft import get_peft_model_state_dict

    model = getattr(pipe, part)
    name = "default_0"
    pipe.save_lora_weights(
        tmp_path / "theirs",
        **{
            f"{part}_lora_layers": get_peft_model_state_dict(model, adapter_name=name),
            f"{part}_lora_adapter_metadata": model.peft_config[name].to_dict(),
        },
    )
    for folder in (tmp_path, tmp_path / "theirs"):
        back = read_adapter(folder)
        assert (back.rank, back.alpha) == (4, 6)
        assert {n: t.tolist() for n, t in back.tensors("face").items()} == {
            n: t.tolist() for n, t in adapter.tensors("face").items()
        }


def test_ours_and_diffusers_own_files_say_the_same(tmp_path):
    network, pipe, _ = adapted("stable_diffusion")
    (adapter,) = exported(network).values()
    write_adapter(tmp_path, adapter)
    pipe.load_lora_weights(tmp_path)
    assert pipe.unet.peft_config["default_0"].lora_alpha == 6
    assert len(load_file(tmp_path / FILE_NAME)) == 2 * len(adapter.layers)


@pytest.fixture
def matrices():
    torch.manual_seed(0)
    return {
        "transformer.blocks.0.to_q.lora_A.weight": torch.randn(4, 8),
        "transformer.blocks.0.to_q.lora_B.weight": torch.randn(8, 4),
        "transformer.blocks.1.to_q.lora_A.weight": torch.randn(4, 8),
        "transformer.blocks.1.to_q.lora_B.weight": torch.randn(8, 4),
    }


def test_alpha_stands_in_metadata_in_scalars_or_is_the_rank(tmp_path, matrices):
    file = tmp_path / "x.safetensors"
    save_file(matrices, file)
    assert read_adapter(file).alpha == 4
    alphas = {f"transformer.blocks.{block}.to_q.alpha": torch.tensor(2.5) for block in (0, 1)}
    save_file(matrices | alphas, file)
    assert read_adapter(file).alpha == 2.5
    save_file(matrices, file, {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 16})})
    assert read_adapter(file).alpha == 16


def test_names_of_older_versions_are_read(tmp_path, matrices):
    old = {n.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): t for n, t in matrices.items()}
    save_file(old, tmp_path / FILE_NAME)
    assert read_adapter(tmp_path).layers.keys() == {"transformer.blocks.0.to_q", "transformer.blocks.1.to_q"}


def test_what_one_adapter_cannot_say_is_refused(tmp_path, matrices):
    file = tmp_path / "x.safetensors"
    wider = {
        "transformer.blocks.1.to_q.lora_A.weight": torch.randn(2, 8),
        "transformer.blocks.1.to_q.lora_B.weight": torch.randn(8, 2),
    }
    save_file(matrices | wider, file)
    with pytest.raises(ValueError, match=r"ranks 2, 4: layers of one adapter must agree"):
        read_adapter(file)
    alphas = {f"transformer.blocks.{block}.to_q.alpha": torch.tensor(block + 1.0) for block in (0, 1)}
    save_file(matrices | alphas, file)
    with pytest.raises(ValueError, match=r"alphas 1\.0, 2\.0"):
        read_adapter(file)
    save_file(matrices | {"transformer.blocks.0.to_q.lora_magnitude_vector": torch.ones(8)}, file)
    with pytest.raises(ValueError, match=r"more or less than pairs.*magnitude"):
        read_adapter(file)
    save_file({"lora_unet_down_blocks_0.lora_down.weight": torch.ones(2, 2)}, file)
    with pytest.raises(ValueError, match=r"more or less than pairs.*lora_unet"):
        read_adapter(file)
    del matrices["transformer.blocks.0.to_q.lora_B.weight"]
    save_file(matrices, file)
    with pytest.raises(ValueError, match=r"more or less than pairs.*blocks\.0\.to_q"):
        read_adapter(file)
    file.write_bytes(b"no")
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        read_adapter(file)
    with pytest.raises(ValueError, match=f"give a folder with {FILE_NAME}"):
        read_adapter(tmp_path / "nothing")


def test_parts_of_other_names_are_mapped_to_components_or_refused():
    network, *_ = adapted("stable_diffusion")
    state = {f"denoising_{plain_name(name)}": tensor for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match="no component 'denoising_unet', only unet or transformer"):
        find_adapters(state, lora_settings(network))
    found = find_adapters(state, lora_settings(network), components={"denoising_unet": "unet"})
    assert found["face"].layers.keys() == exported(network)["face"].layers.keys()


def test_several_adapters_are_told_apart():
    network = nn.ModuleDict({"unet": unet_model()})
    add_lora(
        network,
        {
            "single_id": {"rank": 4, "alpha": 4, "targets": ["unet.*.to_q"]},
            "multi_id": {"rank": 2, "alpha": 1, "targets": ["unet.*.to_[qk]"]},
        },
    )
    found = exported(network)
    assert {name: (a.rank, a.alpha) for name, a in found.items()} == {"single_id": (4, 4), "multi_id": (2, 1)}
    assert 2 * len(found["single_id"].layers) == len(found["multi_id"].layers)
