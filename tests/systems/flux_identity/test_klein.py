"""FLUX.2 klein as the host: codec, positions, guidance, text and adapters are those of its stock pipeline."""

import json

import pytest
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from portraitgen.diffusion.flux2_latents import Flux2Codec
from portraitgen.diffusion.timesteps import EmpiricalShift
from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.nn.text.qwen3 import Qwen3Text
from portraitgen.runs.convert_lora import export_adapters
from portraitgen.systems.flux_identity.conditioning import Kontext
from portraitgen.systems.flux_identity.network import Flux2IdentityNetwork
from portraitgen.systems.flux_identity.pipeline import FluxIdentityPipeline
from portraitgen.training.weights import plain_state, save_weights
from tests.systems.flux_identity import tiny

TEXT = 24
OPTIONS = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT,
    "timestep_guidance_channels": 32,
    "guidance_embeds": False,
    "axes_dims_rope": (4, 4, 4, 4),
}
TARGETS = [
    "transformer.x_embedder",
    "transformer.transformer_blocks.*.attn.to_[qkv]",
    "transformer.transformer_blocks.*.attn.to_out.0",
    "transformer.transformer_blocks.*.ff.linear_out",
    "transformer.single_transformer_blocks.*.attn.to_qkv_mlp_proj",
    "transformer.single_transformer_blocks.*.attn.to_out",
]


def vae():
    torch.manual_seed(1)
    made = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    made.bn.running_mean = torch.randn(16) * 0.3
    made.bn.running_var = torch.rand(16) + 0.2
    return made.eval()


def scheduler():
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    lora = {"identity": {"rank": 4, "alpha": 8, "targets": TARGETS, "init": "gaussian"}}
    made = Flux2IdentityNetwork(transformer=OPTIONS, lora=lora)
    tiny.train_adapters(made)
    return made.eval().requires_grad_(False)


def test_latents_are_the_pipelines_and_come_back():
    codec, source = Flux2Codec(vae()), torch.Generator().manual_seed(0)
    pictures = torch.rand(2, 3, 32, 48, generator=source) * 2 - 1
    pipeline = Flux2KleinPipeline(scheduler(), vae(), None, None, Flux2Transformer2DModel(**OPTIONS))
    expected = pipeline._encode_vae_image(pictures, generator=None)
    latents = codec.encode(pictures)
    assert (codec.channels, codec.factor, latents.shape) == (16, 4, (2, 16, 8, 12))
    torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-5)
    plain = vae().decode(vae().encode(pictures).latent_dist.mode()).sample
    torch.testing.assert_close(codec.decode(latents), plain, rtol=1e-4, atol=1e-5)
    latents.requires_grad_()
    codec.decode(latents).sum().backward()
    assert latents.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="both must be multiples of 4"):
        codec.encode(torch.zeros(1, 3, 30, 32))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_pictures_are_those_of_the_stock_pipeline_with_our_adapter(network, tmp_path, guidance):
    tensors = {n: t.contiguous() for n, t in plain_state(network).items()}
    facts = {"lora": {"identity": {"rank": 4, "alpha": 8}}}
    weights = tmp_path / "adapter.safetensors"
    save_weights(weights, tensors, config={}, step=0, system="flux_identity", provenance=facts)
    export_adapters(weights, tmp_path / "lora")
    transformer = Flux2Transformer2DModel(**OPTIONS)
    transformer.load_state_dict(
        {n.removeprefix("transformer."): t for n, t in tensors.items() if ".lora_" not in n}
    )
    pipeline = Flux2KleinPipeline(scheduler(), vae(), None, None, transformer.eval())
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(tmp_path / "lora")
    source = torch.Generator().manual_seed(5)
    text, empty = (torch.randn(1, 6, TEXT, generator=source) for _ in range(2))
    photo = torch.randint(0, 256, (64, 80, 3), dtype=torch.uint8, generator=source)
    theirs = pipeline(
        image=Image.fromarray(photo.numpy()),
        prompt_embeds=text,
        negative_prompt_embeds=empty,
        height=32,
        width=32,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
    ).images
    ours = FluxIdentityPipeline(
        network,
        Flux2Codec(vae()),
        Kontext(),
        scheduler=scheduler(),
        num_steps=4,
        cfg_scale=guidance,
        shift=EmpiricalShift(),
    )
    mask = torch.ones(1, 6, dtype=torch.bool)
    found = ours(
        {"ref": (photo.movedim(-1, 0) / 127.5 - 1)[None]},
        TextEncoding(text, mask),
        size=(32, 32),
        negative=TextEncoding(empty, mask),
        generator=torch.Generator().manual_seed(7),
    )
    expected = torch.as_tensor(theirs).movedim(-1, 1) * 2 - 1
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)
    other = ours(
        {"ref": torch.zeros(1, 3, 64, 80)},
        TextEncoding(text, mask),
        size=(32, 32),
        negative=TextEncoding(empty, mask),
        generator=torch.Generator().manual_seed(7),
    )
    assert (other - found).abs().max() > 1e-3, "the reference has a say"


TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if not enable_thinking %}<no>{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Qwen3 and its tokenizer, as diffusers lays them out."""
    root = tmp_path_factory.mktemp("klein")
    vocabulary = {token: number for number, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], pad_token="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(root / "tokenizer")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    Qwen3ForCausalLM(config).save_pretrained(root / "text_encoder")
    return root


def test_prompts_are_encoded_as_the_pipeline_does(folder):
    encoder = Qwen3Text.from_pretrained(str(folder), max_tokens=96, layers=[1, 2, 4])
    expected = Flux2KleinPipeline._get_qwen3_prompt_embeds(
        Qwen3ForCausalLM.from_pretrained(folder / "text_encoder").eval(),
        Qwen2Tokenizer.from_pretrained(folder / "tokenizer"),
        ["a woman at the sea", ""],
        max_sequence_length=96,
        hidden_states_layers=(1, 2, 4),
    )
    found = encoder.encode(["a woman at the sea", ""])
    torch.testing.assert_close(found.embeds, expected)
    assert found.embeds.shape == (2, 96, 48)
    assert found.pooled is None
    assert encoder.clean("a") == "<user>a<end><assistant><no>"
    assert encoder.settings()["layers"] == [1, 2, 4]


def test_another_model_is_refused_by_name(folder, tmp_path):
    (tmp_path / "text_encoder").mkdir()
    for name in ("text_encoder", "tokenizer"):
        (tmp_path / name).mkdir(exist_ok=True)
        for file in (folder / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "text_encoder/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "t5"}))
    with pytest.raises(ValueError, match="holds a t5, not a qwen3"):
        Qwen3Text.from_pretrained(str(tmp_path))


def test_full_size():
    network = tiny.full_size("klein")
    base = sum(p.numel() for name, p in network.named_parameters() if ".lora_" not in name)
    assert base == pytest.approx(3.9e9, rel=0.03), "klein 4B"


def test_guidance_needs_prompts():
    with pytest.raises(Exception, match=r"sampling\.cfg_scale: .* without model\.prompts"):
        tiny.build("klein", "sampling.cfg_scale=4.0")
