"""Pose maps of windows: whose statistics, in which range, and how much memory they and the reference take."""

import copy

import pytest
import torch
from torch import Tensor, nn

from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.systems.aniportrait.pose_maps import PoseMaps

UNET = {
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
}
GUIDER = {"base_channels": 4, "num_attention_heads": 2, "attention_head_dim": 4, "norm_num_groups": 4}
WINDOW = range(4, 12)


@pytest.fixture
def network() -> AniPortraitNetwork:
    torch.manual_seed(0)
    network = AniPortraitNetwork(
        denoising_unet=UNET, reference_unet=UNET, pose_guider=GUIDER | {"norm": "batch"}
    )
    nn.init.normal_(network.pose_guider.final_proj.weight)
    network.pose_guider.train()(drawings()[0])  # leaves running statistics of some training behind
    return network.eval().requires_grad_(False)


def drawings() -> Tensor:
    source = torch.Generator().manual_seed(1)
    steps = torch.randint(0, 256, (2, 20, 3, 32, 32), generator=source)
    # The frames differ more and more: windows have other statistics than the clip.
    return (steps / 127.5 - 1) * torch.linspace(0, 1, 20).view(-1, 1, 1, 1)


def make(network: AniPortraitNetwork, **settings: object) -> PoseMaps:
    options = {"stats": "running", "value_range": "training", "capacity": 2**20, **settings}
    return PoseMaps(network, drawings(), **options)


def in_training(network: AniPortraitNetwork, clip: Tensor) -> tuple[Tensor, ...]:
    """Maps of a guider in training mode, which has the statistics of what it is given."""
    return copy.deepcopy(network.pose_guider).requires_grad_().train()(clip)


def assert_equal_maps(found: tuple[Tensor, ...], expected: list[tuple[Tensor, ...]]) -> None:
    for level, clips in zip(found, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(level, torch.stack(clips), atol=1e-4, rtol=1e-4)


def test_running_statistics_are_those_of_the_training(network: AniPortraitNetwork) -> None:
    expected = [network.pose_guider(clip) for clip in drawings()[:, WINDOW.start : WINDOW.stop]]
    assert_equal_maps(make(network).of_window(WINDOW), expected)


@pytest.mark.parametrize("value_range", ["training", "upstream"])
def test_statistics_of_the_window(network: AniPortraitNetwork, value_range: str) -> None:
    """Each clip on its own, as if it were alone; the running statistics stay as they were."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    clips = drawings()[:, WINDOW.start : WINDOW.stop]
    if value_range == "upstream":
        clips = 2 * ((clips + 1) * 127.5).round() - 1
        assert clips.max() > 300
    expected = [in_training(network, clip) for clip in clips]
    maps = make(network, stats="window", value_range=value_range)
    assert_equal_maps(maps.of_window(WINDOW), expected)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_statistics_of_the_clip(network: AniPortraitNetwork) -> None:
    """Every frame of a clip of up to 32 counts, whatever the window."""
    expected = [
        tuple(level[WINDOW.start : WINDOW.stop] for level in in_training(network, clip))
        for clip in drawings()
    ]
    assert_equal_maps(make(network, stats="clip").of_window(WINDOW), expected)


def test_a_guider_with_group_norm_has_no_statistics_to_choose() -> None:
    torch.manual_seed(0)
    network = AniPortraitNetwork(
        denoising_unet=UNET, reference_unet=UNET, pose_guider=GUIDER | {"norm": "group"}
    ).eval()
    running, *others = (
        make(network, stats=stats).of_window(WINDOW) for stats in ("running", "window", "clip")
    )
    for maps in others:
        for level, expected in zip(maps, running, strict=True):
            torch.testing.assert_close(level, expected, atol=1e-5, rtol=1e-5)


def test_maps_are_kept_up_to_the_capacity(network: AniPortraitNetwork) -> None:
    windows = [range(8), range(4, 12), range(8, 16), range(12, 20)]
    size = sum(level.numel() * 4 for level in make(network).of_window(windows[0]))
    maps = make(network, capacity=2 * size)
    first = [maps.of_window(window) for window in windows]
    again = [maps.of_window(window) for window in windows]
    assert maps.num_bytes == 2 * size
    assert [one is two for one, two in zip(first, again, strict=True)] == [True, True, False, False]
    for one, two in zip(first, again, strict=True):
        assert all(map(torch.equal, one, two))


def test_what_is_kept_at_full_size() -> None:
    """At 512x512 in half precision: 3.9 MB of maps a frame, 46 MB of keys and values a reference."""
    unet = {"attention_head_dim": 8, "cross_attention_dim": 768}
    with torch.device("meta"):
        network = AniPortraitNetwork(denoising_unet=unet, reference_unet=unet, pose_guider={})
        maps = network.encode_pose(torch.empty(1, 1, 3, 512, 512))
        features = network.encode_reference(torch.empty(1, 4, 64, 64), torch.empty(1, 1, 768))
        pairs = network.project_reference(features).pairs
    assert sum(level.numel() for level in maps) * 2 == 3_932_160
    assert sum(key.numel() + value.numel() for key, value in pairs) * 2 == 46_202_880
