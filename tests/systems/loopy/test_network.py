"""Loopy's network: its places, what starts as nothing, what is dropped, full size. L3 to L6, L8 and L11."""

import pytest
import torch

from portraitgen.nn.speech import frame_windows
from portraitgen.systems.loopy.motion_latents import CONDITIONS, MotionLatents
from portraitgen.systems.loopy.network import AUDIO, INTER, INTRA, ClipContext, LoopyNetwork
from tests.systems.loopy import tiny

CLIPS, FRAMES, MOTION = 2, 3, 4


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return {
        "noisy": torch.randn(CLIPS, FRAMES, 4, 6, 6, generator=generator),
        "time": torch.tensor([10, 600]),
        "reference": torch.randn(CLIPS, 4, 6, 6, generator=generator),
        "motion": torch.randn(CLIPS, MOTION, 4, 6, 6, generator=generator),
        "audio": torch.randn(CLIPS, FRAMES, 5, 2, 6, generator=generator),
    }


def predict(network, inputs, *, found=None, choice=None, conditions=None, **keep):
    context = network.read(inputs["reference"], inputs["motion"], found)
    tokens = network.hear(inputs["audio"])
    latents = network.latents_of_motion(tokens, conditions, choice)
    return network(inputs["noisy"], inputs["time"], context, tokens=tokens, motion_latents=latents, **keep)


def frames_of_stage_1(network, inputs):
    context = network.read(inputs["reference"])
    return torch.cat(
        [network(inputs["noisy"][:, [frame]], inputs["time"], context) for frame in range(FRAMES)], dim=1
    )


def test_every_residual_block_has_all_modules_and_as_built_they_change_nothing(inputs):
    network, frames = tiny.fresh(), tiny.stage1()
    assert all({*place.modules} == {AUDIO, INTER, INTRA} for place in network.denoising_unet.places)
    assert len(network.denoising_unet.places) == 2 + 1 + 4
    missing, unexpected = network.load_state_dict(frames.state_dict(), strict=False)
    assert not unexpected
    new = (INTER, INTRA, AUDIO, "audio_tokens.", "motion_latents.")
    assert all(any(part in name for part in new) for name in missing)
    torch.testing.assert_close(predict(network, inputs), frames_of_stage_1(frames, inputs), atol=1e-5, rtol=0)


def test_inter_clip_layers_read_all_frames_and_intra_clip_layers_those_of_the_clip(inputs):
    network = tiny.moved()
    lengths = {INTER: set(), INTRA: set()}
    for place in network.denoising_unet.places:
        for kind, seen in lengths.items():
            layer = place.modules[kind].transformer_blocks[0].attn1
            layer.register_forward_hook(lambda _, args, __, seen=seen: seen.add(args[0].shape[1]))
    assert predict(network, inputs).shape == inputs["noisy"].shape
    assert lengths == {INTER: {MOTION + FRAMES}, INTRA: {FRAMES}}


def test_one_run_of_the_reference_network_reads_reference_and_motion_frames(inputs):
    network = tiny.moved()
    runs = []
    network.reference_unet.register_forward_hook(lambda _, args, __: runs.append(len(args[0])))
    whole = network.read(inputs["reference"], inputs["motion"])
    assert runs == [CLIPS * (1 + MOTION)]
    apart = network.with_motion(network.read(inputs["reference"]), inputs["motion"])
    for one, other in zip(whole.motion, apart.motion, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(whole.reference.pairs, apart.reference.pairs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("absent", ["zero", "unseen"])
def test_motion_frames_that_there_are_not_have_features_of_zero(inputs, absent):
    network = tiny.moved(temporal={**tiny.TEMPORAL, "absent": absent})
    none = torch.zeros(CLIPS, MOTION, dtype=torch.bool)
    hidden = network.read(inputs["reference"], inputs["motion"], none)
    nothing = network.read(inputs["reference"])
    for one, other in zip(hidden.motion, nothing.motion, strict=True):
        torch.testing.assert_close(one, other.expand_as(one))
    assert (hidden.visible is None) == (absent == "zero")
    # That is not what black pictures would give.
    black = network.read(inputs["reference"], torch.zeros_like(inputs["motion"]))
    assert (black.motion[0] - hidden.motion[0]).abs().max() > 1e-3


# The level with the most pixels has no attention, so that plain places are the first and the last.
PLAIN_ENDS = {
    **tiny.UNET,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}


@pytest.mark.parametrize("unet", [tiny.UNET, PLAIN_ENDS], ids=["plain-middle", "plain-ends"])
@pytest.mark.parametrize("plain", ["resnet", "none"])
def test_places_without_attention_read_the_resnet_of_the_reference_network_or_nothing(inputs, unet, plain):
    temporal = {**tiny.TEMPORAL, "plain_places": plain}
    network = tiny.moved(denoising_unet=unet, reference_unet=unet, temporal=temporal)
    lengths = {True: set(), False: set()}
    for place in network.denoising_unet.places:
        layer = place.modules[INTER].transformer_blocks[0].attn1
        seen = lengths[place.spatial is not None]
        layer.register_forward_hook(lambda _, args, __, seen=seen: seen.add(args[0].shape[1]))
    prediction = predict(network, inputs)
    assert lengths == {True: {MOTION + FRAMES}, False: {FRAMES + (MOTION if plain == "resnet" else 0)}}
    first = tiny.moved(
        denoising_unet=unet, reference_unet=unet, temporal=None, audio=None, motion_latents=None
    )
    assert first.state_dict().keys() < network.state_dict().keys()
    prediction.sum().backward()
    idle = {name for name, each in network.named_parameters() if each.grad is None}
    beside_sound = {f"motion_latents.queries.{name}" for name in CONDITIONS[1:]}
    assert {name for name in idle if not name.startswith(tuple(beside_sound))} == (
        network.parameters_without_gradient()
    )


@pytest.mark.parametrize("absent", ["zero", "unseen"])
def test_motion_frames_stand_in_the_order_that_is_set(inputs, absent):
    found = torch.tensor([[False, True, True, True], [False, False, False, True]])
    contexts = [
        tiny.moved(temporal={**tiny.TEMPORAL, "absent": absent, "motion_order": order}).read(
            inputs["reference"], inputs["motion"], found
        )
        for order in ("oldest_first", "nearest_first")
    ]
    for oldest, nearest in zip(*(each.motion for each in contexts), strict=True):
        assert torch.equal(oldest.flip(2), nearest)
    if absent == "unseen":
        assert torch.equal(contexts[0].visible.flip(1), contexts[1].visible)


def test_a_dropped_reference_is_plain_attention_in_space_and_in_time(inputs):
    network = tiny.moved()
    kept = predict(network, inputs)
    keep = torch.tensor([True, False])
    half = predict(network, inputs, keep_reference=keep, keep_motion=keep)
    torch.testing.assert_close(half[0], kept[0])
    assert (half[1] - kept[1]).abs().max() > 1e-3
    # Whatever the reference and the motion frames are: nothing of them is read.
    other = {**inputs, "reference": -inputs["reference"], "motion": -inputs["motion"]}
    dropped = torch.tensor([False, False])
    alone = [predict(network, each, keep_reference=dropped, keep_motion=dropped) for each in (inputs, other)]
    torch.testing.assert_close(alone[0], alone[1])
    torch.testing.assert_close(alone[0][1], half[1])


def test_training_evaluation_and_checkpointing_give_the_same(inputs):
    network = tiny.moved()
    network.eval()
    expected = predict(network, inputs)
    network.train()
    torch.testing.assert_close(predict(network, inputs), expected)
    gradients = []
    for enabled in (False, True):
        network.zero_grad()
        network.set_gradient_checkpointing(enabled)
        predicted = predict(network, inputs)
        torch.testing.assert_close(predicted, expected)
        predicted.square().sum().backward()
        gradients.append([each.grad for each in network.parameters() if each.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_everything_that_trains_gets_a_gradient(inputs):
    network = tiny.moved()
    conditions = {
        "landmarks": torch.rand(CLIPS, FRAMES, 10),
        "movement": torch.rand(CLIPS, 1),
        "expression": torch.rand(CLIPS, 1),
    }
    choice = torch.tensor([0, 1])
    keep = torch.tensor([True, False])
    predict(network, inputs, conditions=conditions, choice=choice, keep_reference=keep).sum().backward()
    idle = {name for name, each in network.named_parameters() if each.grad is None}
    assert idle == network.parameters_without_gradient()


@pytest.mark.parametrize("part", ["audio", "motion", "reference"])
def test_conditions_move_the_prediction(inputs, part):
    network = tiny.moved()
    before = predict(network, inputs)
    changed = predict(network, {**inputs, part: inputs[part] + 1 + inputs[part].roll(1, dims=1)})
    assert (changed - before).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-4


def test_sound_of_a_frame_is_attended_to_by_that_frame():
    network = tiny.moved()
    attention = network.denoising_unet.places[0].modules[AUDIO]
    hidden, tokens = torch.randn(3, 8, 4, 4), torch.randn(3, 3, 8)
    changed = tokens.clone()
    changed[1] += 1
    moved = (attention(hidden, changed) - attention(hidden, tokens)).abs().amax(dim=(1, 2, 3))
    assert (moved > 1e-5).tolist() == [False, True, False]


@pytest.mark.parametrize("per_frame", [True, False])
def test_motion_latents_go_by_the_condition_that_is_chosen(per_frame):
    torch.manual_seed(0)
    module = MotionLatents(
        token_dim=8,
        num_tokens=2,
        num_landmarks=5,
        time_dim=12,
        num_embeddings=4,
        dim=8,
        heads=2,
        per_frame=per_frame,
    )
    torch.nn.init.normal_(module.to_time.weight)
    values = {
        "audio": torch.randn(4, 3, 2, 8),
        "landmarks": torch.randn(4, 3, 10),
        "movement": torch.rand(4, 1),
        "expression": torch.rand(4, 1),
    }
    choice = torch.arange(4)
    latents = module(values, choice)
    assert latents.shape == (4, 3, 12)
    assert torch.equal(latents[0], module(values)[0])  # alone in use: sound
    for number, name in enumerate(CONDITIONS):
        changed = module({**values, name: values[name] + 1}, choice)
        differs = (changed - latents).abs().amax(dim=(1, 2)) > 1e-6
        assert differs.tolist() == [row == number for row in range(4)]
    frames_differ = (latents[0] - latents[0, :1]).abs().max() > 1e-6
    assert bool(frames_differ) == per_frame
    latents.sum().backward()
    assert all(each.grad is not None for each in module.parameters())


@pytest.mark.parametrize("audio", ["mean", "all"])
def test_motion_latents_read_the_mean_of_a_frame_s_tokens_or_all_of_them(audio):
    torch.manual_seed(0)
    sizes = {"token_dim": 8, "num_tokens": 2, "num_landmarks": 5, "time_dim": 12}
    module = MotionLatents(**sizes, num_embeddings=4, dim=8, heads=2, audio=audio)
    torch.nn.init.normal_(module.to_time.weight)
    tokens = torch.randn(1, 3, 2, 8)
    assert torch.allclose(module({"audio": tokens}), module({"audio": tokens.flip(2)})) == (audio == "mean")


def test_five_frames_of_sound_around_each_are_those_of_hallo(shared):
    import json

    golden = json.loads((shared / "golden/loopy_audio_window.json").read_text())["hallo_process_audio_emb"]
    for count, expected in golden.items():
        assert frame_windows(torch.arange(int(count))[None])[0].tolist() == expected


@pytest.mark.parametrize(
    ("order", "expected"),
    [("audio_first", [AUDIO, INTER, INTRA]), ("audio_last", [INTER, INTRA, AUDIO])],
)
def test_sound_is_attended_to_before_or_behind_the_temporal_layers(inputs, order, expected):
    network = tiny.moved(order=order)
    passed = []
    for kind, layer in network.denoising_unet.places[0].modules.items():
        layer.register_forward_hook(lambda *_, kind=kind: passed.append(kind))
    predict(network, inputs)
    assert passed == expected


def test_a_learned_token_may_stand_where_the_prompt_stood(inputs):
    network = tiny.moved(context="learned")
    predict(network, inputs).sum().backward()
    assert network.context.grad.abs().max() > 0


def test_full_size_has_the_parameters_of_the_reference():
    unet = {"cross_attention_dim": 768, "attention_head_dim": 8}
    with torch.device("meta"):
        network = LoopyNetwork(
            denoising_unet=unet,
            reference_unet=unet,
            temporal={},
            audio={},
            motion_latents={"num_landmarks": 68},
        )
    assert len(network.denoising_unet.places) == 21

    def millions(part):
        return sum(each.numel() for each in part) / 1e6

    places = [place.modules for place in network.denoising_unet.places]
    spatial = millions(
        each
        for name, each in network.denoising_unet.named_parameters()
        if not any(kind in name for kind in (AUDIO, INTER, INTRA))
    )
    assert spatial == pytest.approx(859.5, abs=0.1)
    for kind, frames in ((INTER, 32), (INTRA, 12)):
        found = millions(each for place in places for each in place[kind].parameters())
        tables = millions(
            each for place in places for name, each in place[kind].named_parameters() if name.endswith(".pe")
        )
        assert found - tables == pytest.approx(453.2, abs=0.1), frames
    assert millions(network.audio_tokens.parameters()) == pytest.approx(36.5, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temporal": {"clip_frame": 3}}, "did you mean 'clip_frames'"),
        ({"temporal": None}, "both null"),
        (
            {"temporal": {**tiny.TEMPORAL, "absent": "black"}},
            "temporal.absent='black': choose zero or unseen",
        ),
        ({"temporal": {**tiny.TEMPORAL, "plain_places": "all"}}, "choose resnet or none"),
        ({"temporal": {**tiny.TEMPORAL, "motion_order": "any"}}, "choose oldest_first or nearest_first"),
        ({"motion_latents": {**tiny.MOTION_LATENTS, "audio": "first"}}, "choose mean or all"),
        ({"temporal": {**tiny.TEMPORAL, "positions": "none"}}, "choose one of sinusoidal"),
        ({"context": "text"}, "choose zeros or learned"),
        ({"order": "audio"}, "choose audio_first or audio_last"),
        ({"audio": {**tiny.AUDIO, "num_attention_heads": 3}}, "does not divide the 8 channels"),
        ({"motion_latents": {"num_landmark": 5}}, "did you mean 'num_landmarks'"),
        ({"reference_unet": {**tiny.UNET, "layers_per_block": 2}}, "the same block types"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.fresh(**changes)


def test_sound_of_another_encoder_is_refused(inputs):
    with pytest.raises(ValueError, match=r"\[5, 2, 6\]"):
        tiny.fresh().hear(inputs["audio"][..., :5])


def test_a_context_for_several_guidance_passes():
    network = tiny.moved()
    context = network.read(torch.randn(2, 4, 6, 6), torch.randn(2, 4, 4, 6, 6))
    repeated = context.repeated(3)
    assert isinstance(repeated, ClipContext)
    assert torch.equal(repeated.motion[0][2:4], context.motion[0])
    assert torch.equal(repeated.reference.pairs[0][1][4:], context.reference.pairs[0][1])
