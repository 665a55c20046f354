"""Pose guider: map sizes for any number of levels, norms in training and evaluation, a frozen guider."""

import pytest
import torch
from torch import nn

from portraitgen.nn.pose_guider import PoseGuider

SMALL = {"base_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8, "norm_num_groups": 8}


def drawings(frames: int = 3, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def awake(guider: PoseGuider) -> PoseGuider:
    """The guider with a projection that is not zero."""
    nn.init.normal_(guider.final_proj.weight)
    return guider


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("channels", [(8,), (8, 16), (16, 8, 24), (8, 16, 16, 32)])
def test_one_map_more_than_levels(channels, norm):
    maps = PoseGuider(channels, norm=norm, **SMALL)(drawings())

    sizes = [tuple(each.shape) for each in maps]
    halvings = [*range(len(channels)), len(channels) - 1]
    expected = zip((channels[0], *channels), halvings, strict=True)
    assert sizes == [(3, width, -(-4 // 2**times), -(-6 // 2**times)) for width, times in expected]


def test_fresh_guider_adds_nothing_to_the_first_level():
    assert not PoseGuider((8, 16), **SMALL)(drawings())[0].any()


def test_batch_norm_uses_the_batch_in_training_and_running_statistics_in_evaluation():
    torch.manual_seed(0)
    guider = awake(PoseGuider((8, 16), norm="batch", **SMALL))
    with torch.no_grad():
        together, alone = guider(drawings())[1], guider(drawings()[:1])[1]
        assert (together[:1] - alone).abs().max() > 1e-3
        guider.eval()
        together, alone = guider(drawings())[1], guider(drawings()[:1])[1]
    torch.testing.assert_close(together[:1], alone)


def test_group_norm_treats_each_drawing_alone_and_is_the_same_in_evaluation():
    torch.manual_seed(0)
    guider = awake(PoseGuider((8, 16), norm="group", **SMALL))
    with torch.no_grad():
        training = guider(drawings())
        alone = guider(drawings()[:1])
        evaluation = guider.eval()(drawings())
    for in_training, by_itself, in_evaluation in zip(training, alone, evaluation, strict=True):
        torch.testing.assert_close(in_training[:1], by_itself, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(in_training, in_evaluation, atol=0, rtol=0)


def test_frozen_guider_keeps_its_statistics_in_training_mode():
    guider = PoseGuider((8, 16), norm="batch", **SMALL).requires_grad_(False)
    before = {name: value.clone() for name, value in guider.state_dict().items()}

    guider.train()(drawings())

    assert all(torch.equal(value, before[name]) for name, value in guider.state_dict().items())
    assert PoseGuider((8, 16), norm="batch", **SMALL).train().training


def test_unknown_norm():
    with pytest.raises(
        ValueError, match=r"pose_guider\.norm='layer': choose 'batch' \(upstream\) or 'group'"
    ):
        PoseGuider((8,), norm="layer")
