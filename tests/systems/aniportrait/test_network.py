"""AniPortrait's network: stages, dropped references, what trains, checkpointing, full size, config errors."""

import pytest
import torch
from torch import Tensor, nn

from portraitgen.systems.aniportrait.network import AniPortraitNetwork

CONTEXT = 12
UNET = {
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "cross_attention_dim": CONTEXT,
    "norm_num_groups": 8,
}
POSE = {
    "base_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
    "norm": "group",
}
MOTION = {"motion_num_attention_heads": 4, "motion_max_seq_length": 8}
STAGES = pytest.mark.parametrize("motion", [None, MOTION], ids=["stage1", "stage2"])


def build(**changes: object) -> AniPortraitNetwork:
    """A small network that has left its initial state: none of its projections is zero."""
    torch.manual_seed(0)
    options = {"denoising_unet": UNET, "reference_unet": UNET, "pose_guider": POSE} | changes
    network = AniPortraitNetwork(**options)
    for name, parameter in network.named_parameters():
        if "final_proj" in name or ("motion_modules" in name and "proj_out" in name):
            nn.init.normal_(parameter, std=0.1)
    return network


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "noisy": torch.randn(2, 3, 4, 8, 8, generator=generator),
        "time": torch.tensor([10, 600]),
        "reference": torch.randn(2, 4, 8, 8, generator=generator),
        "pose": torch.rand(2, 3, 3, 64, 64, generator=generator) * 2 - 1,
        "image_embeds": torch.randn(2, 1, CONTEXT, generator=generator),
    }


def predict(
    network: AniPortraitNetwork,
    inputs: dict[str, Tensor],
    *,
    keep: Tensor | None = None,
    with_reference: bool = True,
) -> Tensor:
    """The network's prediction from raw inputs."""
    features = network.encode_reference(inputs["reference"], inputs["image_embeds"])
    return network(
        inputs["noisy"],
        inputs["time"],
        reference=features if with_reference else None,
        pose=network.encode_pose(inputs["pose"]),
        image_embeds=inputs["image_embeds"],
        keep=keep,
    )


def gradients(network: AniPortraitNetwork, inputs: dict[str, Tensor]) -> dict[str, Tensor | None]:
    network.zero_grad()
    predict(network, inputs, keep=torch.tensor([True, False])).square().sum().backward()
    return {name: each.grad for name, each in network.named_parameters()}


def test_fresh_stage_2_gives_stage_1_frame_by_frame(inputs):
    stage1 = build()
    stage2 = AniPortraitNetwork(denoising_unet=UNET, reference_unet=UNET, pose_guider=POSE, motion=MOTION)
    missing, unexpected = stage2.load_state_dict(stage1.state_dict(), strict=False)
    assert unexpected == []
    assert missing
    assert all("motion_modules" in name for name in missing)

    clip = predict(stage2, inputs)

    for frame in range(3):
        image = inputs | {name: inputs[name][:, [frame]] for name in ("noisy", "pose")}
        torch.testing.assert_close(clip[:, [frame]], predict(stage1, image), atol=1e-5, rtol=0)


@STAGES
def test_dropped_reference_is_plain_self_attention_of_that_sample(inputs, motion):
    network = build(motion=motion)
    plain = predict(network, inputs, with_reference=False)
    seeing = predict(network, inputs)
    assert (seeing - plain).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3

    torch.testing.assert_close(
        predict(network, inputs, keep=torch.tensor([False, False])), plain, atol=2e-6, rtol=0
    )
    torch.testing.assert_close(
        predict(network, inputs, keep=torch.tensor([True, True])), seeing, atol=0, rtol=0
    )
    mixed = predict(network, inputs, keep=torch.tensor([True, False]))
    torch.testing.assert_close(mixed, torch.stack([seeing[0], plain[1]]), atol=2e-6, rtol=0)


@STAGES
def test_keys_and_values_can_be_kept_over_the_sampling_steps(inputs, motion):
    network = build(motion=motion)
    features = network.encode_reference(inputs["reference"], inputs["image_embeds"])
    kept = network.project_reference(features)
    given = {"pose": network.encode_pose(inputs["pose"]), "image_embeds": inputs["image_embeds"]}
    for time in (900, 20):
        times = torch.tensor([time, time])
        anew = network(inputs["noisy"], times, reference=features, **given)
        cached = network(inputs["noisy"], times, reference=kept, **given)
        torch.testing.assert_close(cached, anew, atol=1e-5, rtol=0)


@STAGES
def test_training_and_evaluation_mode_agree(inputs, motion):
    network = build(motion=motion)
    training = predict(network.train(), inputs)
    assert torch.equal(predict(network.eval(), inputs), training)


@STAGES
def test_checkpointing_changes_neither_output_nor_gradients(inputs, motion):
    network = build(motion=motion)
    stored, output = gradients(network, inputs), predict(network, inputs)

    network.set_gradient_checkpointing(True)

    assert torch.equal(predict(network, inputs), output)
    for name, gradient in gradients(network, inputs).items():
        assert (gradient is None) == (stored[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, stored[name], atol=0, rtol=0, msg=name)


@STAGES
def test_every_trainable_parameter_gets_a_gradient_and_no_other(inputs, motion):
    network = build(motion=motion)
    without = network.parameters_without_gradient()
    # What a stage must not train never gets a gradient, even where somebody asks for it.
    network.requires_grad_(True)

    found = gradients(network, inputs)

    assert {name for name, gradient in found.items() if gradient is None} == without
    assert {
        name for name, each in build(motion=motion).named_parameters() if not each.requires_grad
    } == without


def test_parameters_without_gradient_are_those_of_upstream():
    unet = UNET | {"block_out_channels": [16, 32, 32, 32]}
    del unet["down_block_types"], unet["up_block_types"]
    network = build(denoising_unet=unet, reference_unet=unet)
    behind = [
        *("attn1.to_q.weight", "attn1.to_k.weight", "attn1.to_v.weight"),
        *("attn1.to_out.0.weight", "attn1.to_out.0.bias", "norm2.weight", "norm2.bias"),
        *("attn2.to_q.weight", "attn2.to_k.weight", "attn2.to_v.weight"),
        *("attn2.to_out.0.weight", "attn2.to_out.0.bias", "norm3.weight", "norm3.bias"),
        *("ff.net.0.proj.weight", "ff.net.0.proj.bias", "ff.net.2.weight", "ff.net.2.bias"),
    ]
    last = "reference_unet.up_blocks.3.attentions.1"
    tail = {f"{last}.transformer_blocks.0.{name}" for name in behind}
    tail |= {f"{last}.proj_out.weight", f"{last}.proj_out.bias"}
    queries = {
        name
        for name, _ in network.named_parameters()
        if ".attentions." in name
        and any(part in name for part in (".norm2.", ".attn2.to_q.", ".attn2.to_k."))
    } - {name for name, _ in network.named_parameters() if name.startswith("pose_guider")}
    assert len(tail) == 20
    assert network.parameters_without_gradient() == tail | queries


def test_reference_features_rounded_to_float16(inputs):
    exact, rounded = build(), build(reference_dtype="float16")
    given = (inputs["reference"], inputs["image_embeds"])
    for tokens, kept in zip(
        exact.encode_reference(*given).tokens, rounded.encode_reference(*given).tokens, strict=True
    ):
        assert kept.dtype == torch.float32
        assert torch.equal(kept, tokens.half().float())
        assert not torch.equal(kept, tokens)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_any_number_of_levels(inputs, levels):
    unet = UNET | {
        "block_out_channels": [16, 32, 24][:levels],
        "down_block_types": ["CrossAttnDownBlock2D"] * levels,
        "up_block_types": ["CrossAttnUpBlock2D"] * levels,
    }
    network = build(denoising_unet=unet, reference_unet=unet, motion=MOTION)
    assert predict(network, inputs).shape == inputs["noisy"].shape
    assert network.context_dim == CONTEXT


def test_too_long_clip_names_the_limit(inputs):
    network = build(motion=MOTION)
    longer = inputs | {name: inputs[name].repeat(1, 3, 1, 1, 1) for name in ("noisy", "pose")}
    with pytest.raises(ValueError, match="a clip of 9 frames is longer than the limit of 8 of the motion"):
        predict(network, longer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pose_guider": POSE | {"base_chanels": 3}},
            r"pose_guider\.base_chanels: .* did you mean 'base_channels'",
        ),
        (
            {"pose_guider": POSE | {"block_out_channels": [8]}},
            r"pose_guider\.block_out_channels: unknown option",
        ),
        ({"reference_unet": UNET | {"layers": 1}}, r"reference_unet\.layers: unknown option"),
        ({"reference_unet": UNET | {"layers_per_block": 2}}, "reference_unet gives features of widths"),
        (
            {"reference_unet": UNET | {"cross_attention_dim": 8}},
            "cross_attention_dim is 8 in reference_unet and 12",
        ),
        ({"motion": {"heads": 2}}, r"motion\.heads: unknown option"),
        ({"reference_dtype": "half"}, "reference_dtype='half': choose 'float16'"),
    ],
)
def test_options_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.mark.slow
def test_it_compiles_to_one_graph_with_equal_gradients(inputs):
    network = build(motion=MOTION)
    network.set_gradient_checkpointing(True)
    expected = gradients(network, inputs)
    compiled = torch.compile(predict, backend="aot_eager", fullgraph=True)

    network.zero_grad()
    compiled(network, inputs, keep=torch.tensor([True, False])).square().sum().backward()

    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4, msg=name)


def test_full_size_has_the_published_number_of_parameters():
    unet = {"attention_head_dim": 8, "cross_attention_dim": 768}
    with torch.device("meta"):
        network = AniPortraitNetwork(denoising_unet=unet, reference_unet=unet, pose_guider={}, motion={})

    sizes = {
        part: (len(module.state_dict()), round(sum(each.numel() for each in module.parameters()) / 1e6, 2))
        for part, module in network.named_children()
    }

    assert sizes == {
        "denoising_unet": (1253, 1312.73),
        "reference_unet": (682, 859.51),
        "pose_guider": (184, 167.52),
    }
