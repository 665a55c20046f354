"""Pipelines of diffusers, as they are, with our U-Net in them."""

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)

from tests.systems.uniportrait import golden

NO_SAFETY = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


@pytest.fixture(scope="module")
def network(shared):
    return golden.network(shared)


@pytest.fixture(scope="module")
def known(shared):
    return golden.tensors(shared)


@pytest.fixture(scope="module")
def parts(shared):
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8, 8, 8, 8), norm_num_groups=4, **blocks(4)).eval()
    scheduler = DDIMScheduler(
        **{k: v for k, v in golden.config(shared)["scheduler"].items() if not k.startswith("_")}
    )
    return {"vae": vae, "text_encoder": None, "tokenizer": None, "scheduler": scheduler, **NO_SAFETY}


def blocks(count):
    return {
        "down_block_types": ["DownEncoderBlock2D"] * count,
        "up_block_types": ["UpDecoderBlock2D"] * count,
    }


def run(pipeline, known, embeds, *, people_scale=0.7, image_scale=0.7, **options):
    pipeline.set_progress_bar_config(disable=True)
    inputs = pipeline.unet.encoder_hid_proj
    inputs.people_scale, inputs.image_scale = people_scale, image_scale
    return pipeline(
        prompt_embeds=known["gen_pos"],
        negative_prompt_embeds=known["gen_neg"],
        ip_adapter_image_embeds=embeds,
        guidance_scale=7.5,
        num_inference_steps=4,
        output_type="latent",
        **options,
    ).images


def text_to_image(network, parts, known, embeds, **options):
    pipeline = StableDiffusionPipeline(unet=network.unet, **parts)
    latents = known["gen_init_latents_seed11"].clone()
    return run(pipeline, known, embeds, latents=latents, height=128, width=128, **options)


def pair(known, *names):
    """[2, N, 16, 32]: without and with these people."""
    return torch.cat(
        [torch.stack([known[f"faceid_{n}_{kind}"] for n in names], dim=1) for kind in ("uncond", "embeds")]
    )


NOBODY = torch.zeros(2, 0, 16, 32)


@pytest.mark.golden
def test_the_stock_pipeline_gives_the_official_results(network, parts, known):
    network.adapt_to(0)
    found = text_to_image(network, parts, known, [NOBODY])
    torch.testing.assert_close(found, known["gen_none"], rtol=0, atol=1e-4)
    network.adapt_to(1)
    one = [pair(known, "single")]
    found = text_to_image(network, parts, known, one)
    torch.testing.assert_close(found, known["gen_single"], rtol=0, atol=1e-4)


@pytest.mark.golden
def test_several_photos_of_a_person_are_read_as_one_set(network, parts, known, shared, key_seeded):
    features = golden.features(shared, key_seeded)
    crops = known["images_u8"].movedim(-1, 1) / 127.5 - 1
    intrinsic, structure = features(crops[:3])
    nobody = network.id_resampler(*features.nobody(intrinsic), structure_scale=0.1)
    together = network.id_resampler(
        intrinsic.flatten(0, 1)[None], structure.flatten(0, 1)[None], structure_scale=0.1
    )
    turned = network.id_resampler(
        intrinsic.flip(0).flatten(0, 1)[None], structure.flip(0).flatten(0, 1)[None], structure_scale=0.1
    )
    torch.testing.assert_close(turned, together, rtol=0, atol=1e-4)
    network.adapt_to(1)
    embeds = [torch.stack([nobody, together])]
    found = text_to_image(network, parts, known, embeds)
    torch.testing.assert_close(found, known["gen_single_multiref"], rtol=0, atol=1e-4)


@pytest.mark.golden
def test_two_pipelines_in_one_process_do_not_meet(network, parts, known, shared):
    other = golden.network(shared)
    other.adapt_to(2)
    network.adapt_to(1)
    one, two = [pair(known, "single")], [pair(known, "single", "single_b")]
    before = text_to_image(network, parts, known, one)
    alone = text_to_image(other, parts, known, two)
    other.branch_inputs.regions = known["faceid_mask"]
    held = text_to_image(other, parts, known, two)
    assert not torch.allclose(alone, held, atol=1e-2)
    assert torch.equal(text_to_image(network, parts, known, one), before)
    other.branch_inputs.regions = None
    assert torch.equal(text_to_image(other, parts, known, two), alone)


@pytest.mark.golden
@pytest.mark.parametrize("people", [("single",), ("single", "single_b")])
def test_other_pipelines_show_the_people_too(network, parts, known, people):
    network.adapt_to(len(people))
    embeds = [known["ip_embeds"][None].expand(2, -1, -1, -1), pair(known, *people)]
    generator = torch.Generator()
    picture = torch.rand(2, 3, 128, 128, generator=generator.manual_seed(1))
    mask = torch.zeros(2, 1, 128, 128)
    mask[..., 32:96, 32:96] = 1
    control = ControlNetModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=4,
        conditioning_embedding_out_channels=(8, 8, 8, 8),
    ).eval()
    # What it gives is zero until it is trained.
    torch.nn.init.normal_(control.controlnet_mid_block.weight, generator=generator)
    for kind, more, options in (
        (StableDiffusionImg2ImgPipeline, {}, {"image": picture, "strength": 0.75}),
        (StableDiffusionInpaintPipeline, {}, {"image": picture, "mask_image": mask, "strength": 1.0}),
        (StableDiffusionControlNetPipeline, {"controlnet": control}, {"image": picture[:1]}),
    ):
        pipeline = kind(unet=network.unet, **parts, **more)
        size = {} if kind is StableDiffusionImg2ImgPipeline else {"height": 128, "width": 128}
        with_people, without = (
            run(
                pipeline,
                known,
                embeds,
                people_scale=scale,
                image_scale=0.5,
                generator=generator.manual_seed(2),
                **options,
                **size,
            )
            for scale in (1.0, 0.0)
        )
        assert with_people.isfinite().all()
        assert (with_people - without).abs().max() > 1e-2, kind
