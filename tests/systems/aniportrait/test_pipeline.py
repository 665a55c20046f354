"""Sampling of clips: windows, guidance, seeds and caches around the real network at a tiny size."""

import weakref
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from portraitgen.diffusion.frame_conditions import FramesOnDemand
from portraitgen.diffusion.latents import PixelCodec, VAECodec
from portraitgen.diffusion.noise import seeded_generators
from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.systems.aniportrait.pipeline import AniPortraitPipeline
from tests.systems.aniportrait.tiny_network import GUIDER, MOTION, UNET

MakePipeline = Callable[..., AniPortraitPipeline]


@pytest.fixture
def pipeline() -> MakePipeline:
    def make(
        motion: dict[str, int] | None = None,
        norm: str = "group",
        wake_motion: bool = False,
        **settings: object,
    ) -> AniPortraitPipeline:
        torch.manual_seed(0)
        parts = {"denoising_unet": UNET, "reference_unet": UNET, "pose_guider": GUIDER | {"norm": norm}}
        network = AniPortraitNetwork(**parts).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)  # what starts at zero would hide a condition that is not used
        if motion is not None:
            weights = network.state_dict()
            network = AniPortraitNetwork(**parts, motion=motion).eval()
            network.load_state_dict(weights, strict=False)
            if wake_motion:
                for name, parameter in network.named_parameters():
                    if "motion_modules" in name and "proj_out" in name:
                        nn.init.normal_(parameter, std=0.1)
        scheduler = DDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        )
        options = {"num_steps": 2, "window_frames": 8, "window_overlap": 4, **settings}
        return AniPortraitPipeline(network, PixelCodec(4), scheduler=scheduler, **options)

    return make


def conditions(samples: int, frames: int, height: int = 16, width: int = 16) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(3)
    reference = torch.rand(samples, 3, height, width, generator=source) * 2 - 1
    # Steps of a byte, as drawings have them.
    steps = torch.randint(0, 256, (samples, frames, 3, 2 * height, 2 * width), generator=source)
    return reference, steps / 127.5 - 1


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
    with pytest.raises(ValueError, match=r"latents of 4x4 need 32x32 \(data.examples.pose_size\)"):
        pipeline()(reference, pose[..., :16, :16])


def test_every_step_is_reported(pipeline: MakePipeline) -> None:
    reference, pose = conditions(1, 2)
    seen: list[tuple[int, int]] = []
    pipeline(num_steps=3)(reference, pose, on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_stream_is_the_clip_in_chunks(pipeline: MakePipeline) -> None:
    reference, pose = conditions(2, 11)
    pipe = pipeline(MOTION, decode_frames=4)
    whole = pipe(reference, pose, generator=seeded_generators([1, 2]))
    chunks = [*pipe.stream(reference, pose, generator=seeded_generators([1, 2]))]
    assert [chunk.shape[1] for chunk in chunks] == [4, 4, 3]
    assert torch.equal(torch.cat(chunks, dim=1), whole)


@pytest.mark.parametrize("stats", ["running", "window", "clip"])
@pytest.mark.parametrize(
    "settings",
    [{"window_batch": 2}, {"window_batch": 4}, {"pose_cache_mb": 0}, {"offload_latents": True}],
    ids=str,
)
def test_settings_of_speed_and_memory_do_not_change_the_clip(
    pipeline: MakePipeline, stats: str, settings: dict[str, object]
) -> None:
    """Batch norm of the pose guider included: its statistics stay those of a window, or of the clip."""
    reference, pose = conditions(2, 18)
    given = {"motion": MOTION, "norm": "batch", "wake_motion": True, "pose_stats": stats}
    expected = pipeline(**given).sample_latents(reference, pose, generator=seeded_generators([1, 2]))
    found = pipeline(**given, **settings).sample_latents(reference, pose, generator=seeded_generators([1, 2]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_deterministic_algorithms_can_be_asked_for(pipeline: MakePipeline) -> None:
    reference, pose = conditions(1, 11)
    torch.use_deterministic_algorithms(True)
    try:
        clips = [pipeline(MOTION)(reference, pose, generator=seeded_generators([1])) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*clips)


def test_a_network_in_half_precision_keeps_latents_in_float32(pipeline: MakePipeline) -> None:
    reference, pose = conditions(1, 11)
    pipe = pipeline(MOTION, norm="batch", pose_stats="window", guidance_scale=2.0)
    exact = pipe.sample_latents(reference, pose, generator=seeded_generators([1]))
    pipe.network.denoising_unet.bfloat16()
    pipe.network.reference_unet.bfloat16()
    rounded = pipe.sample_latents(reference, pose, generator=seeded_generators([1]))
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_clip(
    pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    reference, pose = conditions(1, 11)
    plain, compiled = (
        pipeline(MOTION, compile=compile)(reference, pose, generator=seeded_generators([1]))
        for compile in (False, True)
    )
    torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=0)


def test_drawings_can_be_made_when_they_are_needed(pipeline: MakePipeline) -> None:
    reference, pose = conditions(1, 18)
    asked: list[int] = []

    def make(frames: Sequence[int]) -> Tensor:
        asked.append(len(frames))
        return pose[:, list(frames)]

    pipe = pipeline(MOTION)
    expected = pipe(reference, pose, generator=seeded_generators([1]))
    found = pipe(reference, FramesOnDemand(18, make), generator=seeded_generators([1]))
    assert torch.equal(found, expected)
    assert max(asked) == 8, "no more than a window at once"
    assert sum(asked) == 1 + 4 * 8, "once for all steps: one frame to see the size, then four windows"


@pytest.mark.parametrize(("height", "width"), [(16, 40), (24, 16), (8, 8)])
def test_any_size_that_the_codec_takes(pipeline: MakePipeline, height: int, width: int) -> None:
    reference, pose = conditions(1, 3, height, width)
    clip = pipeline(MOTION)(reference, pose, generator=seeded_generators([1]))
    assert clip.shape == (1, 3, 3, height, width)
    with pytest.raises(ValueError, match="must be multiples of 4"):
        pipeline()(reference[..., 1:], pose)


def test_the_same_seed_starts_a_longer_clip_with_the_same_noise(pipeline: MakePipeline) -> None:
    """And upstream's order is at hand: its noise for a seed is that of a tensor [B, C, T, h, w]."""
    shape = (1, 18, 48, 4, 4)
    noise = pipeline()._draw_noise(shape, device=torch.device("cpu"), generator=seeded_generators([7]))
    shorter = pipeline()._draw_noise(
        (1, 5, 48, 4, 4), device=torch.device("cpu"), generator=seeded_generators([7])
    )
    assert torch.equal(noise[:, :5], shorter)
    upstream = pipeline(noise_order="channels_first")._draw_noise(
        shape, device=torch.device("cpu"), generator=torch.Generator().manual_seed(7)
    )
    expected = torch.randn(1, 48, 18, 4, 4, generator=torch.Generator().manual_seed(7))
    assert torch.equal(upstream, expected.transpose(1, 2))


def test_shifted_windows_differ_from_step_to_step_and_hold_every_frame(pipeline: MakePipeline) -> None:
    reference, pose = conditions(1, 27)
    still, shifted = (
        pipeline(MOTION, wake_motion=True, num_steps=3, shift_windows=shift).sample_latents(
            reference, pose, generator=seeded_generators([1])
        )
        for shift in (False, True)
    )
    assert (shifted - still).abs().max() > 1e-3
    # Frames alone are the same whatever the windows.
    still, shifted = (
        pipeline(num_steps=3, shift_windows=shift).sample_latents(
            reference, pose, generator=seeded_generators([1])
        )
        for shift in (False, True)
    )
    torch.testing.assert_close(shifted, still, atol=1e-4, rtol=0)


def test_windows_longer_than_the_motion_modules_take(pipeline: MakePipeline) -> None:
    reference, pose = conditions(1, 12)
    with pytest.raises(ValueError, match=r"window_frames=10: the motion modules take at most 8 frames"):
        pipeline(MOTION, window_frames=10)(reference, pose)
    pipeline(MOTION, window_frames=10, num_steps=1)(reference, pose[:, :8])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decode_frames": 0}, r"sampling\.decode_frames is 0: it must be 1 or more"),
        ({"pose_stats": "batch"}, r"sampling\.pose_stats='batch': choose one of running, window, clip"),
        ({"pose_range": "upstream"}, r"only sampling\.pose_stats=window or clip"),
        (
            {"unconditional_image": "black"},
            r"sampling\.unconditional_image='black': choose one of zero, gray",
        ),
    ],
)
def test_settings_that_cannot_be(pipeline: MakePipeline, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(**settings)


class PeakBytes(TorchDispatchMode):
    """The largest number of bytes that tensors made inside held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._live: dict[int, weakref.ref[object]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._live:
            return

        def released(_: object) -> None:
            del self._live[key]
            self._now -= size

        self._live[key] = weakref.ref(storage, released)
        self._now += size
        self.peak = max(self.peak, self._now)


def test_memory_does_not_grow_with_the_length_but_for_the_latents() -> None:
    """A minute at 30 frames a second against seven seconds; pictures are 48 times their latents."""
    unet = UNET | {"in_channels": 4, "out_channels": 4}
    torch.manual_seed(0)
    network = AniPortraitNetwork(
        denoising_unet=unet, reference_unet=unet, pose_guider=GUIDER, motion=MOTION
    ).eval()
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
    )
    pipe = AniPortraitPipeline(
        network,
        VAECodec(vae),
        scheduler=DDIMScheduler(),
        num_steps=1,
        guidance_scale=1.0,
        window_frames=8,
        window_batch=16,
        pose_cache_mb=0.1,
    )
    reference = torch.zeros(1, 3, 32, 32)
    peaks = {}
    for num_frames in (200, 1800):
        drawings = FramesOnDemand(num_frames, lambda frames: torch.zeros(1, len(frames), 3, 32, 32))
        with PeakBytes() as memory:
            chunks = pipe.stream(reference, drawings, generator=torch.Generator().manual_seed(0))
            assert sum(chunk.shape[1] for chunk in chunks) == num_frames
        peaks[num_frames] = memory.peak
    latents, pictures = (4 * 1600 * each for each in (4 * 4 * 4, 3 * 32 * 32))
    growth = peaks[1800] - peaks[200]
    assert latents < growth < 8 * latents < pictures / 5
