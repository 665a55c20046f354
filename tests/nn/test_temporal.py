"""Temporal transformer: identity at the start, statistics of each frame alone, the longest clip."""

import pytest
import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import nn

from portraitgen.nn.temporal import TemporalTransformer

CHANNELS = 16


@pytest.fixture
def temporal() -> TemporalTransformer:
    """A transformer whose output is not zero any more."""
    torch.manual_seed(0)
    module = TemporalTransformer(CHANNELS, num_attention_heads=4, max_frames=6, norm_num_groups=4)
    nn.init.normal_(module.proj_out.weight)
    return module


def test_fresh_module_is_the_identity():
    hidden = torch.randn(6, CHANNELS, 3, 5)
    fresh = TemporalTransformer(CHANNELS, num_attention_heads=4, norm_num_groups=4)
    assert torch.equal(fresh(hidden, 3), hidden)


def test_names_and_values_of_diffusers(temporal):
    theirs = AnimateDiffTransformer3D(
        4, 4, CHANNELS, norm_num_groups=4, positional_embeddings="sinusoidal", num_positional_embeddings=6
    )
    theirs.load_state_dict(temporal.state_dict())
    # With one frame, statistics per frame and over all frames are the same.
    hidden = torch.randn(2, CHANNELS, 3, 5)
    torch.testing.assert_close(temporal(hidden, 1), theirs(hidden, num_frames=1))


def test_norm_sees_each_frame_alone(temporal):
    hidden = torch.randn(4, CHANNELS, 3, 5)
    normalised = temporal.norm(hidden)
    louder = hidden.clone()
    louder[0] *= 100
    torch.testing.assert_close(temporal.norm(louder)[1:], normalised[1:])


def test_frames_mix_within_their_clip_and_pixel_only(temporal):
    hidden = torch.randn(6, CHANNELS, 3, 5)
    changed = hidden.clone()
    changed[1, :, 2, 4] += torch.randn(CHANNELS)
    # Group norm spreads a change over its frame: undo that to see where attention carries it.
    temporal.norm = nn.Identity()

    moved = (temporal(changed, 3) - temporal(hidden, 3)).abs().amax(dim=1) > 1e-6

    expected = torch.zeros(6, 3, 5, dtype=torch.bool)
    expected[:3, 2, 4] = True
    assert torch.equal(moved, expected)


def test_order_of_frames_matters(temporal):
    hidden = torch.randn(4, CHANNELS, 3, 5)
    reversed_twice = temporal(hidden.flip(0), 4).flip(0)
    assert (reversed_twice - temporal(hidden, 4)).abs().max() > 1e-2


def test_too_long_clip_names_the_limit(temporal):
    temporal(torch.randn(6, CHANNELS, 2, 2), 6)
    with pytest.raises(
        ValueError, match=r"a clip of 7 frames is longer than the limit of 6 .*motion_max_seq"
    ):
        temporal(torch.randn(7, CHANNELS, 2, 2), 7)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="motion_num_attention_heads=3 does not divide the 16 channels"):
        TemporalTransformer(CHANNELS, num_attention_heads=3)


def test_frames_before_the_clip_take_part_and_do_not_come_out(temporal):
    before, hidden = torch.randn(4, CHANNELS, 3, 5), torch.randn(4, CHANNELS, 3, 5)
    whole = torch.cat([before.unflatten(0, (2, 2)), hidden.unflatten(0, (2, 2))], dim=1).flatten(0, 1)
    expected = temporal(whole, 4).unflatten(0, (2, 4))[:, 2:].flatten(0, 1)
    tokens = temporal.project(before, 2)
    torch.testing.assert_close(temporal(hidden, 2, before=tokens), expected)
    seen = torch.ones(2, 2, dtype=torch.bool)
    torch.testing.assert_close(temporal(hidden, 2, before=tokens, visible=seen), expected)


def test_frames_that_are_not_visible_change_nothing(temporal):
    before, hidden = torch.randn(4, CHANNELS, 3, 5), torch.randn(4, CHANNELS, 3, 5)
    seen = torch.tensor([[False, True], [True, True]])
    changed = before.clone()
    changed[0] += torch.randn(CHANNELS, 3, 5)
    results = [
        temporal(hidden, 2, before=temporal.project(each, 2), visible=seen) for each in (before, changed)
    ]
    torch.testing.assert_close(results[0], results[1])
    visible = [temporal(hidden, 2, before=temporal.project(each, 2)) for each in (before, changed)]
    assert (visible[0][:2] - visible[1][:2]).abs().max() > 1e-4


@pytest.mark.parametrize("positions", ["learned", "learned_from_noise"])
def test_positions_that_are_learned(temporal, positions):
    torch.manual_seed(0)
    learning = TemporalTransformer(
        CHANNELS, num_attention_heads=4, max_frames=6, norm_num_groups=4, positions=positions
    )
    missing, unexpected = learning.load_state_dict(temporal.state_dict(), strict=False)
    assert (missing, unexpected) == ([], [])  # the names are those of the fixed table
    hidden = torch.randn(4, CHANNELS, 3, 5)
    torch.testing.assert_close(learning(hidden, 4), temporal(hidden, 4))
    learning(hidden, 4).sum().backward()
    assert learning.transformer_blocks[0].pos_embed.pe.grad[:, :4].abs().min() > 0
