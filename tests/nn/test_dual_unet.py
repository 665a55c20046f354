"""The two U-Nets against diffusers' own, and the options they refuse."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn

from portraitgen.nn.dual_unet import DenoisingUNet, ReferenceUNet
from portraitgen.nn.reference_attention import ReferenceFeatures

CONTEXT = 12
THREE_LEVELS = {
    "block_out_channels": [16, 32, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2,
    "attention_head_dim": 4,
    "cross_attention_dim": CONTEXT,
    "norm_num_groups": 8,
}
# No attention at the first resolution: the reference U-Net has blocks behind its last attention.
COARSE_ATTENTION = THREE_LEVELS | {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}
MOTION = {"motion_num_attention_heads": 4, "motion_max_seq_length": 8}


def inputs(*, frames: int = 1, height: int = 8, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2, frames, 4, height, width, generator=generator)
    return sample, torch.tensor([3, 700]), torch.randn(2, 1, CONTEXT, generator=generator)


@pytest.mark.parametrize("options", [THREE_LEVELS, COARSE_ATTENTION])
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_without_conditions_it_is_the_unet_of_diffusers(options, size):
    torch.manual_seed(0)
    ours, theirs = DenoisingUNet(options), UNet2DConditionModel(**options)
    theirs.load_state_dict(ours.state_dict())
    sample, time, context = inputs(height=size[0], width=size[1])

    expected = theirs(sample[:, 0], time, context).sample

    torch.testing.assert_close(ours(sample, time, context)[:, 0], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("middle", [True, False])
def test_with_motion_it_is_the_motion_unet_of_diffusers(middle):
    torch.manual_seed(0)
    ours = DenoisingUNet(THREE_LEVELS, MOTION | {"use_motion_mid_block": middle})
    for name, parameter in ours.named_parameters():
        if "motion_modules" in name and "proj_out" in name:
            nn.init.normal_(parameter, std=0.1)
    options = THREE_LEVELS | MOTION | {"use_motion_mid_block": middle}
    options["num_attention_heads"] = options.pop("attention_head_dim")
    for direction in ("down_block_types", "up_block_types"):
        options[direction] = [each.replace("2D", "Motion") for each in options[direction]]
    theirs = UNetMotionModel(**options)
    theirs.load_state_dict(ours.state_dict())
    sample, time, context = inputs()  # one frame: then diffusers' norm over frames is a norm per frame

    expected = theirs(sample.transpose(1, 2), time, context).sample.transpose(1, 2)

    torch.testing.assert_close(ours(sample, time, context), expected, atol=2e-5, rtol=0)


def test_frames_of_an_image_network_do_not_touch():
    network = DenoisingUNet(THREE_LEVELS)
    sample, time, context = inputs(frames=3)
    one_by_one = [network(sample[:, [frame]], time, context) for frame in range(3)]
    torch.testing.assert_close(network(sample, time, context), torch.cat(one_by_one, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [THREE_LEVELS, COARSE_ATTENTION])
def test_reference_features_fit_the_denoising_unet(options):
    torch.manual_seed(0)
    reading, giving = DenoisingUNet(options), ReferenceUNet(options)
    sample, time, context = inputs(frames=2)

    features = giving(sample[:, 0], torch.zeros(2), context)
    with_reference = reading(sample, time, context, reference=features)

    assert [tokens.shape[2] for tokens in features.tokens] == reading.attention_widths
    assert (with_reference - reading(sample, time, context)).abs().max() > 1e-4


@pytest.mark.parametrize("options", [THREE_LEVELS, COARSE_ATTENTION])
def test_every_trainable_parameter_of_the_reference_unet_is_used(options):
    network = ReferenceUNet(options)
    sample, _, context = inputs()

    features = network(sample[:, 0], torch.zeros(2), context)
    sum(tokens.square().sum() for tokens in features.tokens).backward()

    idle = [name for name, each in network.named_parameters() if each.requires_grad and each.grad is None]
    assert idle == []


def test_pose_maps_move_the_prediction_level_by_level():
    network = DenoisingUNet(THREE_LEVELS)
    sample, time, context = inputs(frames=2)
    shapes = [(16, 8, 8), (16, 4, 4), (32, 2, 2), (32, 2, 2)]
    zero = [torch.zeros(2, 2, *shape) for shape in shapes]
    plain = network(sample, time, context)
    torch.testing.assert_close(network(sample, time, context, pose=zero), plain)
    for level in range(len(shapes)):
        maps = [*zero]
        maps[level] = torch.ones_like(maps[level])
        assert (network(sample, time, context, pose=maps) - plain).abs().max() > 1e-4


def test_inputs_that_do_not_fit():
    network = DenoisingUNet(THREE_LEVELS, MOTION)
    sample, time, context = inputs(frames=2)
    with pytest.raises(ValueError, match=r"one token a clip, \[2, 1, D\]"):
        network(sample, time, torch.randn(2, 5, CONTEXT))
    with pytest.raises(ValueError, match="1 pose maps: 4 are needed, or none"):
        network(sample, time, context, pose=[torch.zeros(2, 2, 16, 8, 8)])
    with pytest.raises(ValueError, match="the drawing must be 8 times the latent grid"):
        network(sample, time, context, pose=[torch.zeros(2, 2, 16, 4, 4)] * 4)
    with pytest.raises(ValueError, match="the reference has 4 tokens where a frame has 64"):
        network(sample, time, context, reference=ReferenceFeatures((torch.zeros(2, 4, 16),) * 12))
    with pytest.raises(ValueError, match="a clip of 9 frames is longer than the limit of 8"):
        network(sample.repeat(1, 5, 1, 1, 1)[:, :9], time, context)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"block_out_chanels": [1]},
            r"denoising_unet\.block_out_chanels: unknown option; did you mean 'block_o",
        ),
        ({"class_embed_type": "timestep"}, r"denoising_unet\.class_embed_type='timestep': only None is supp"),
        (
            {"down_block_types": ["AttnDownBlock2D"] * 3},
            r"denoising_unet\.down_block_types=.*CrossAttnDownBlock2D",
        ),
        ({"cross_attention_dim": [12, 12, 12]}, r"denoising_unet\.cross_attention_dim: one number"),
    ],
)
def test_unsupported_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        DenoisingUNet(THREE_LEVELS | change)


def test_defaults_of_unsupported_options_may_be_written_out():
    DenoisingUNet(THREE_LEVELS | {"center_input_sample": False, "class_embed_type": None})


def test_unknown_motion_option():
    with pytest.raises(
        ValueError, match=r"motion\.max_seq_length: unknown option; did you mean 'motion_max_se"
    ):
        DenoisingUNet(THREE_LEVELS, {"max_seq_length": 8})


def test_reference_unet_needs_attention_on_the_way_up():
    with pytest.raises(ValueError, match=r"reference_unet\.up_block_types: at least one"):
        ReferenceUNet(THREE_LEVELS | {"up_block_types": ["UpBlock2D"] * 3})
