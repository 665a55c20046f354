"""Sampling of clips: windows, guidance, seeds and caches around the real network at a tiny size."""

from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from portraitgen.diffusion.latents import PixelCodec
from portraitgen.diffusion.noise import seeded_generators
from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.systems.aniportrait.pipeline import AniPortraitPipeline

UNET = {
    "in_channels": 48,
    "out_channels": 48,
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
}
GUIDER = {
    "base_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "norm": "group",
    "norm_num_groups": 4,
}
MOTION = {"motion_num_attention_heads": 2, "motion_max_seq_length": 8}
MakePipeline = Callable[..., AniPortraitPipeline]


@pytest.fixture
def pipeline() -> MakePipeline:
    def make(motion: dict[str, int] | None = None, **settings: object) -> AniPortraitPipeline:
        torch.manual_seed(0)
        network = AniPortraitNetwork(denoising_unet=UNET, reference_unet=UNET, pose_guider=GUIDER).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)  # what starts at zero would hide a condition that is not used
        if motion is not None:
            weights = network.state_dict()
            network = AniPortraitNetwork(
                denoising_unet=UNET, reference_unet=UNET, pose_guider=GUIDER, motion=motion
            ).eval()
            network.load_state_dict(weights, strict=False)
        scheduler = DDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        )
        options = {"num_steps": 2, "window_frames": 8, "window_overlap": 4, **settings}
        return AniPortraitPipeline(network, PixelCodec(4), scheduler=scheduler, **options)

    return make


def conditions(samples: int, frames: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(3)
    reference = torch.rand(samples, 3, 16, 16, generator=source) * 2 - 1
    pose = torch.rand(samples, frames, 3, 32, 32, generator=source) * 2 - 1
    return reference, pose


def test_a_sample_is_the_same_alone_and_in_a_batch(pipeline: MakePipeline) -> None:
    reference, pose = conditions(2, 3)
    pipe = pipeline(MOTION)
    both = pipe(reference, pose, generator=seeded_generators([5, 6]))
    alone = pipe(reference[1:], pose[1:], generator=seeded_generators([6]))
    assert both.shape == (2, 3, 3, 16, 16)
    assert both.abs().max() <= 1
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=0)


def test_windows_of_one_frame_are_the_frames(pipeline: MakePipeline) -> None:
    reference, pose = conditions(1, 5)
    whole = pipeline(window_frames=8)(reference, pose, generator=seeded_generators([1]))
    single = pipeline(window_frames=1)(reference, pose, generator=seeded_generators([1]))
    torch.testing.assert_close(whole, single, atol=1e-4, rtol=0)


def test_fresh_motion_modules_do_not_change_a_long_clip(pipeline: MakePipeline) -> None:
    """Also shows that overlapping windows are averaged, with and without guidance."""
    reference, pose = conditions(1, 11)
    for scale in (1.0, 2.0):
        frames = pipeline(guidance_scale=scale)(reference, pose, generator=seeded_generators([1]))
        clip = pipeline(MOTION, guidance_scale=scale, window_batch=2)(
            reference, pose, generator=seeded_generators([1])
        )
        torch.testing.assert_close(clip, frames, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_pose_and_reference_reach_the_result(pipeline: MakePipeline, scale: float) -> None:
    reference, pose = conditions(1, 2)
    pipe = pipeline(guidance_scale=scale)
    plain = pipe(reference, pose, generator=seeded_generators([1]))
    assert (pipe(-reference, pose, generator=seeded_generators([1])) - plain).abs().max() > 1e-3
    assert (pipe(reference, -pose, generator=seeded_generators([1])) - plain).abs().max() > 1e-3


def test_guidance_pushes_away_from_the_prediction_without_reference(pipeline: MakePipeline) -> None:
    reference, pose = conditions(1, 2)
    results = [
        pipeline(guidance_scale=scale, num_steps=1)(reference, pose, generator=seeded_generators([1]))
        for scale in (1.0, 1.01)
    ]
    without = pipeline(guidance_scale=0.0, num_steps=1)(reference, pose, generator=seeded_generators([1]))
    pushed = results[0] + 0.01 * (results[0] - without)
    inside = (results[0].abs() < 0.95) & (results[1].abs() < 0.95) & (without.abs() < 0.95)
    torch.testing.assert_close(results[1][inside], pushed[inside], atol=1e-4, rtol=0)
    assert (results[0] - without).abs().max() > 1e-3


def test_drawings_of_the_wrong_size_are_refused(pipeline: MakePipeline) -> None:
    reference, pose = conditions(1, 2)
    with pytest.raises(ValueError, match=r"latents of 4x4 need 32x32 \(data.pose_size\)"):
        pipeline()(reference, pose[..., :16, :16])


def test_every_step_is_reported(pipeline: MakePipeline) -> None:
    reference, pose = conditions(1, 2)
    seen: list[tuple[int, int]] = []
    pipeline(num_steps=3)(reference, pose, on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
