"""Sampling against diffusers' pipeline with the same parts, and what it computes how often."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import CogVideoXDPMScheduler
from diffusers import ConsisIDPipeline as DiffusersPipeline
from diffusers.hooks.group_offloading import ModuleGroup
from PIL import Image

from portraitgen.diffusion.image_condition import stretched
from portraitgen.diffusion.noise import seeded_generators
from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.systems.consisid.pipeline import ConsisIDPipeline, Face
from tests.systems.consisid import tiny
from tests.systems.consisid.test_module import with_video_vae

SIZE, FRAMES, STEPS = (64, 64), 5, 3


def text(seed):
    embeds = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(seed))
    return TextEncoding(embeds, torch.ones(1, 4, dtype=torch.bool))


@pytest.fixture
def parts():
    module = with_video_vae().eval()
    torch.manual_seed(1)
    for name, parameter in module.network.named_parameters():
        if parameter.ndim > 1 and "proj_out" not in name:
            parameter.data.mul_(1.5)  # so that guidance and face count
    batch = tiny.batch(1)
    face = Face(batch["face_picture"], batch["face_embedding"], batch["face_hidden"])
    return module, face


def scheduler():
    return CogVideoXDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )


@pytest.mark.parametrize("guidance", [1.0, 6.0])
def test_latents_are_those_of_diffusers_pipeline(parts, guidance):
    module, face = parts
    check_against_diffusers(module, face, guidance)


def test_with_key_points_too(parts):
    """Drawn on a picture of the video's size, which neither of both then resizes."""
    module, face = parts
    module.network.transformer.register_to_config(is_kps=True)
    levels = ((stretched(face.picture, SIZE) + 1) * 127.5).round()
    points = torch.tensor([[[21.5, 24.2], [44.1, 22.9], [33.3, 37.8], [23.0, 47.6], [43.4, 46.1]]])
    given = replace(face, picture=levels / 127.5 - 1, key_points=points)
    photo = Image.fromarray(levels[0].byte().movedim(0, -1).numpy())
    check_against_diffusers(module, given, 6.0, image=photo, kps_cond=points[0].numpy())
    plain = replace(given, key_points=None)
    other = replace(given, key_points=points + 5)
    pipeline = ConsisIDPipeline(module.network, module.codec, scheduler=scheduler(), num_steps=STEPS)
    draw = partial(pipeline, text(1), text(2), size=SIZE, num_frames=FRAMES)
    one, two, none = (draw(each, generator=seeded_generators([3])) for each in (given, other, plain))
    assert not torch.equal(one, two)
    assert not torch.equal(one, none)


def check_against_diffusers(module, face, guidance, **changed):
    make = partial(ConsisIDPipeline, scheduler=scheduler(), num_steps=STEPS, guidance_scale=guidance)
    ours = make(module.network, module.codec)(
        text(1), text(2), face, size=SIZE, num_frames=FRAMES, generator=seeded_generators([3])
    )
    theirs = DiffusersPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=module.codec.vae,
        transformer=module.network.transformer,
        scheduler=scheduler(),
    )
    theirs.set_progress_bar_config(disable=True)
    settings = {
        "image": (stretched(face.picture, SIZE) + 1) / 2,
        "height": SIZE[0],
        "width": SIZE[1],
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "guidance_scale": guidance,
        "prompt_embeds": text(1).embeds,
        "negative_prompt_embeds": text(2).embeds,
        "id_cond": face.embedding,
        "id_vit_hidden": [*face.hidden.unbind(1)],
        "generator": seeded_generators([3]),
        "output_type": "latent",
    }
    expected = theirs(**settings | changed).frames
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_face_tokens_are_made_once_and_both_sides_of_guidance_in_one_pass(parts):
    module, face = parts
    made, shown = [], []
    mapping = module.network.transformer.local_facial_extractor.id_embedding_mapping
    mapping.register_forward_hook(lambda *_: made.append(1))
    module.network.transformer.patch_embed.register_forward_pre_hook(
        lambda _, args: shown.append(len(args[1]))
    )
    steps = []
    pipeline = ConsisIDPipeline(module.network, module.codec, scheduler=scheduler(), num_steps=STEPS)
    pipeline(text(1), text(2), face, size=SIZE, num_frames=FRAMES, on_step=lambda *done: steps.append(done))
    assert made == [1]
    assert shown == [2] * STEPS
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_a_scale_of_zero_is_the_transformer_without_face_modules(parts):
    module, face = parts
    pipeline = ConsisIDPipeline(
        module.network, module.codec, scheduler=scheduler(), num_steps=STEPS, face_scale=0.0
    )
    draw = partial(pipeline, text(1), text(2), size=SIZE, num_frames=FRAMES)
    other = Face(face.picture, face.embedding + 1, face.hidden)
    without, with_other = (draw(each, generator=seeded_generators([3])) for each in (face, other))
    assert torch.equal(without, with_other)
    followed = draw(other, face_scale=1.0, generator=seeded_generators([3]))
    assert not torch.allclose(followed, without)


def test_settings_out_of_range_are_refused(parts):
    module, _ = parts
    for wrong, message in (
        ({"num_steps": 0}, r"sampling\.num_steps is 0"),
        ({"offload": "block"}, "sampling.offload is 'block': give false, true or blocks"),
        ({"cache_threshold": 2.0}, r"sampling\.cache_threshold is 2\.0: it must be from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ConsisIDPipeline(module.network, module.codec, scheduler=scheduler(), **wrong)


def test_offloaded_parts_take_turns_and_draw_the_same(monkeypatch):
    module = with_video_vae().eval()
    batch = tiny.batch(1) | {"caption": ["a man"]}
    whole = module.sample(batch, generator=seeded_generators([3]))
    moves = []

    def watch(name, part):
        move = part.to
        monkeypatch.setattr(part, "to", lambda place: (moves.append((name, str(place))), move(place))[1])

    monkeypatch.setattr(module.prompts.encoder, "offload", lambda: moves.append(("text", "cpu")))
    watch("transformer", module.network)
    watch("vae", module.codec)
    # On a CPU both places are the same; who is sent away before whom is what counts.
    monkeypatch.setattr(module.pipeline, "offload", True)
    assert torch.equal(module.sample(batch, generator=seeded_generators([3])), whole)
    turns = [name for name, _ in moves]
    assert turns == ["text", "transformer", "vae", "vae", "transformer", "transformer", "vae"]


def test_adapters_are_merged_while_sampling_and_train_afterwards():
    network = tiny.network(rank=2).eval()
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    given = tiny.network_inputs()
    names = ("noisy", "time", "text", "picture")
    faces = network.face_tokens(given["embedding"], given["hidden"])
    predict = partial(network, **{name: given[name] for name in names}, faces=faces)
    with torch.no_grad():
        apart = predict()
        with network.adapted():
            merged = predict()
        again = predict()
    torch.testing.assert_close(merged, apart, atol=1e-5, rtol=1e-5)
    assert torch.equal(again, apart)


def test_blocks_that_come_one_at_a_time_draw_the_same_and_nothing_stays(monkeypatch):
    """On a CPU both places are the same; which blocks are fetched in which order is what counts."""
    module = with_video_vae().eval()
    batch = tiny.batch(1) | {"caption": ["a man"]}
    whole = module.sample(batch, generator=seeded_generators([3]))
    transformer, fetched = module.network.transformer, []
    parts = {id(block): f"block {n}" for n, block in enumerate(transformer.transformer_blocks)}
    parts |= {id(read): f"face {n}" for n, read in enumerate(transformer.perceiver_cross_attention)}
    onload = ModuleGroup.onload_

    def watched(group):
        fetched.extend(parts[id(part)] for part in group.modules if id(part) in parts)
        return onload(group)

    monkeypatch.setattr(ModuleGroup, "onload_", watched)
    monkeypatch.setattr(module.pipeline, "offload", "blocks")
    assert torch.equal(module.sample(batch, generator=seeded_generators([3])), whole)
    order = ["block 0", "face 0", "block 1", "block 2", "face 1", "block 3"]
    assert fetched == order * 2, "two steps"
    fetched.clear()
    monkeypatch.setattr(module.pipeline, "offload", False)
    assert torch.equal(module.sample(batch, generator=seeded_generators([3])), whole)
    assert not fetched
    monkeypatch.setattr(module.pipeline, "offload", "blocks")
    monkeypatch.setattr(module.pipeline, "cache_threshold", 0.0)
    assert torch.equal(module.sample(batch, generator=seeded_generators([3])), whole)


def test_on_wan_too_and_with_steps_that_skip_blocks(monkeypatch):
    module, batch = tiny.build("wan").eval(), tiny.batch(1)
    for name, parameter in module.network.named_parameters():
        if name.endswith("face_gate"):
            torch.nn.init.constant_(parameter, 1.0)
    for name, value in {"cache_threshold": 1.0, "cache_rescale": (1.0, 0.0), "num_steps": 5}.items():
        monkeypatch.setattr(module.pipeline, name, value)
    whole = module.sample(batch, generator=seeded_generators([3]))
    monkeypatch.setattr(module.pipeline, "offload", "blocks")
    assert torch.equal(module.sample(batch, generator=seeded_generators([3])), whole)


@pytest.mark.gpu
def test_blocks_that_come_one_at_a_time_take_less_of_the_gpu():
    network = tiny.network(num_attention_heads=24, num_layers=8, LFE_output_dim=256).eval()
    given = {name: value.cuda() for name, value in tiny.network_inputs().items()}
    face = {name: given.pop(name) for name in ("embedding", "hidden")}
    size = sum(value.nbytes for value in network.transformer.transformer_blocks.state_dict().values())

    with torch.no_grad():
        network.extractor.cuda()
        faces = network.face_tokens(**face)
        with network.blocks_offloaded(torch.device("cuda")):
            torch.cuda.reset_peak_memory_stats()
            begin = torch.cuda.memory_allocated()
            offloaded = network(**given, faces=faces)
            peak = torch.cuda.max_memory_allocated() - begin
        whole = network.cuda()(**given, faces=faces)
    torch.testing.assert_close(offloaded, whole)
    assert peak < size
