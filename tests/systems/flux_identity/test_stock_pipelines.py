"""Pictures are those of diffusers' own pipelines that have read our adapter, as convert.py writes it."""

import pytest
import torch
from diffusers import FluxFillPipeline, FluxKontextPipeline, FluxPipeline, FluxPriorReduxPipeline
from safetensors.torch import load_file
from transformers import SiglipImageProcessor

from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.runs.convert_lora import export_adapters, import_adapter
from portraitgen.systems.flux_identity.conditioning import FillDiptych, Kontext, TextOnly
from portraitgen.systems.flux_identity.network import FluxIdentityNetwork
from portraitgen.systems.flux_identity.pipeline import FluxIdentityPipeline
from portraitgen.systems.flux_identity.redux import ReduxEncoder
from portraitgen.training.weights import load_into, load_weights, plain_state, save_weights
from tests.systems.flux_identity import stock

TOLERANCE = {"rtol": 0, "atol": 2e-5}
"""Of pictures in [-1, 1]: our steps are float32 like theirs, but times are rounded elsewhere."""


@pytest.fixture
def text():
    source = torch.Generator().manual_seed(5)
    embeds = torch.randn(1, stock.TOKENS, stock.TEXT, generator=source)
    mask = torch.ones(1, stock.TOKENS, dtype=torch.bool)
    return TextEncoding(embeds, mask, torch.randn(1, stock.POOLED, generator=source))


def picture(*size, seed):
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def with_adapter(kind, ours, folder, *, fill=False, **parts):
    """A pipeline of diffusers with the base of `ours`, that has read its adapter."""
    tensors = {n: t.contiguous() for n, t in plain_state(ours).items()}
    facts = {"lora": {"identity": {"rank": 4, "alpha": 8}}}
    weights = folder / "adapter.safetensors"
    save_weights(weights, tensors, config={}, step=0, system="flux_identity", provenance=facts)
    export_adapters(weights, folder / "lora")
    transformer = stock.plain_transformer(ours, fill=fill)
    none = {
        name: None
        for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
        if name not in parts
    }
    pipeline = kind(scheduler=stock.scheduler(), vae=stock.vae(), transformer=transformer, **none, **parts)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(folder / "lora")
    return pipeline


def draw(ours, conditioning, text, batch, *, size, guidance, seed=7):
    pipeline = FluxIdentityPipeline(
        ours, stock.codec(), conditioning, scheduler=stock.scheduler(), num_steps=4, guidance_scale=guidance
    )
    return pipeline(batch, text, size=size, generator=torch.Generator().manual_seed(seed))


def as_picture(output):
    return torch.as_tensor(output.images).movedim(-1, 1) * 2 - 1


def test_text_alone_is_flux_pipeline(text, tmp_path):
    ours = stock.network(fill=False)
    pipeline = with_adapter(FluxPipeline, ours, tmp_path)
    theirs = pipeline(
        prompt_embeds=text.embeds,
        pooled_prompt_embeds=text.pooled,
        height=32,
        width=48,
        num_inference_steps=4,
        guidance_scale=3.5,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
    )
    found = draw(ours, TextOnly(), text, {}, size=(32, 48), guidance=3.5)
    torch.testing.assert_close(found, as_picture(theirs), **TOLERANCE)
    pipeline.unload_lora_weights()
    without = pipeline(
        prompt_embeds=text.embeds,
        pooled_prompt_embeds=text.pooled,
        height=32,
        width=48,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
    )
    assert (as_picture(without) - found).abs().max() > 1e-2, "the adapter has a say"


def test_kontext_is_kontext_pipeline(text, tmp_path):
    ours, ref = stock.network(fill=False), picture(48, 32, seed=1)
    pipeline = with_adapter(FluxKontextPipeline, ours, tmp_path, image_encoder=None, feature_extractor=None)
    theirs = pipeline(
        image=(ref + 1) / 2,
        prompt_embeds=text.embeds,
        pooled_prompt_embeds=text.pooled,
        height=32,
        width=48,
        max_area=32 * 48,
        _auto_resize=False,
        num_inference_steps=4,
        guidance_scale=2.5,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
    )
    found = draw(ours, Kontext(), text, {"ref": ref}, size=(32, 48), guidance=2.5)
    torch.testing.assert_close(found, as_picture(theirs), **TOLERANCE)
    other = draw(ours, Kontext(), text, {"ref": picture(48, 32, seed=2)}, size=(32, 48), guidance=2.5)
    assert (other - found).abs().max() > 1e-3, "the reference has a say"


def test_fill_diptych_is_redux_and_fill_pipeline(tmp_path):
    ours = stock.network(fill=True)
    vision, embedder = stock.redux_parts()
    ref = (picture(32, 32, seed=1) * 127.5 + 127.5).round() / 127.5 - 1  # bytes, as photos have them
    src, mask = picture(32, 32, seed=2), torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 10:20] = 1
    zeros = TextEncoding(
        torch.zeros(1, 512, stock.TEXT), torch.ones(1, 512, dtype=torch.bool), torch.zeros(1, stock.POOLED)
    )
    processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    prior = FluxPriorReduxPipeline(image_encoder=vision, feature_extractor=processor, image_embedder=embedder)
    prior.set_progress_bar_config(disable=True)
    image = ((ref[0] + 1) * 127.5).round().byte().movedim(0, -1).numpy()
    reader = ReduxEncoder(vision, embedder)
    tokens = prior.image_embedder(prior.encode_image(image, "cpu", 1)).image_embeds
    torch.testing.assert_close(reader(ref), tokens, rtol=0, atol=1e-5)

    pipeline = with_adapter(FluxFillPipeline, ours, tmp_path, fill=True)
    source = torch.Generator().manual_seed(7)
    noise = torch.randn(1, 4, 16, 32, generator=source)
    packed = pipeline._pack_latents(noise, 1, 4, 16, 32)
    theirs = pipeline(
        image=(torch.cat([ref, src], dim=-1) + 1) / 2,
        mask_image=torch.cat([torch.zeros_like(mask), mask], dim=-1),
        prompt_embeds=torch.cat([zeros.embeds, tokens], dim=1),
        pooled_prompt_embeds=zeros.pooled,
        height=32,
        width=64,
        num_inference_steps=4,
        guidance_scale=30.0,
        latents=packed,
        generator=source,
        output_type="np",
    )
    batch = {"ref": ref, "src": src * (1 - mask), "mask": mask}
    found = draw(ours, FillDiptych(reader), zeros, batch, size=(32, 32), guidance=30.0)
    torch.testing.assert_close(found, as_picture(theirs)[..., 32:], **TOLERANCE)


def test_a_lora_that_diffusers_wrote_becomes_our_weights(tmp_path):
    """As Insert-Anything publishes its own: `save_lora_weights` of the pipeline, without metadata."""
    ours = stock.network(fill=True, alpha=4)
    layers = {
        name.removeprefix("transformer.").replace(".identity.", "."): tensor
        for name, tensor in plain_state(ours).items()
        if ".lora_" in name
    }
    FluxFillPipeline.save_lora_weights(tmp_path / "theirs", transformer_lora_layers=layers)
    model = {
        "_target_": "portraitgen.systems.flux_identity.module.FluxIdentity",
        "network": {"transformer": stock.options(fill=True), "lora": {"identity": {"rank": 9}}},
    }
    import_adapter(
        tmp_path / "theirs",
        tmp_path / "ours.safetensors",
        model=model,
        build=lambda node: FluxIdentityNetwork(**node),
        provenance={},
    )
    tensors, facts = load_weights(tmp_path / "ours.safetensors")
    assert facts["config"]["network"]["lora"]["identity"]["rank"] == 4
    assert facts["system"] == "flux_identity"
    again = stock.network(fill=True, alpha=4)
    for parameter in again.parameters():
        torch.nn.init.normal_(parameter)
    load_into(again, tensors, source="the adapter", expect_missing=["*"])
    before, after = plain_state(ours), plain_state(again)
    assert {n for n in before if torch.equal(before[n], after[n])} == {n for n in before if ".lora_" in n}
    assert len(load_file(tmp_path / "theirs/pytorch_lora_weights.safetensors")) == len(tensors)
