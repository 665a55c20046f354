"""Chains of clips: guidance, what is computed how often, the past, length, streaming. L3, L10, L14."""

import gc
import itertools

import pytest
import torch
from diffusers import DDIMScheduler

from portraitgen.diffusion.latent_history import LatentHistory
from portraitgen.diffusion.latents import PixelCodec
from portraitgen.diffusion.noise import seeded_generators
from portraitgen.media.segments import TemporalSegments
from portraitgen.systems.loopy.pipeline import LoopyPipeline
from tests.systems.loopy import tiny

SEGMENTS = {"per_segment": 2, "ratio": 2, "segments": 2}  # 6 frames as 4
UNET = {**tiny.UNET, "in_channels": 12, "out_channels": 12}


@pytest.fixture(scope="module")
def network():
    return tiny.moved(denoising_unet=UNET, reference_unet=UNET).eval()


def pipeline(network, **settings):
    scheduler = DDIMScheduler(prediction_type="sample", clip_sample=False)
    return LoopyPipeline(
        network, PixelCodec(2), **{"scheduler": scheduler, "num_steps": 2, "segments": SEGMENTS, **settings}
    )


def sound(frames, *, seed=0):
    """Each frame's features depend on its number alone."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(1, 200, 5, 2, 6, generator=generator)
    return whole[:, frames.start : frames.stop]


def draw(pipe, num_frames, hear=sound, seed=0):
    reference = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return torch.cat(
        [*pipe.clips_of_latents(reference, num_frames, hear, generator=seeded_generators([seed]))], 1
    )


def test_passes_at_once_or_one_after_the_other_give_the_same(network):
    together = draw(pipeline(network), 5)
    apart = draw(pipeline(network, batch_passes=False), 5)
    assert together.shape == (1, 5, 12, 6, 6)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_passes", [True, False])
def test_guidance_is_that_of_the_paper(network, batch_passes):
    """e = 5 (e_audio − e_ref) + 3 (e_ref − e_base) + e_base, and only what counts is predicted."""
    pipe = pipeline(network, batch_passes=batch_passes)
    context = network.read(torch.randn(1, 12, 6, 6), torch.randn(1, 4, 12, 6, 6))
    noisy, time, audio = torch.randn(1, 3, 12, 6, 6), torch.tensor([300]), sound(range(3))
    tokens = {"audio": network.hear(audio), "none": network.hear(torch.zeros_like(audio))}
    latents = {
        "audio": network.latents_of_motion(tokens["audio"]),
        "none": torch.zeros_like(network.latents_of_motion(tokens["audio"])),
    }

    def predict(heard, seen):
        keep = torch.tensor([seen])
        return network(
            noisy,
            time,
            context,
            tokens=tokens[heard],
            motion_latents=latents[heard],
            keep_reference=keep,
            keep_motion=keep,
        )

    base, reference, full = predict("none", False), predict("none", True), predict("audio", True)
    expected = 5 * (full - reference) + 3 * (reference - base) + base
    torch.testing.assert_close(pipe._predictor(context, audio)(noisy, time), expected, atol=1e-4, rtol=1e-4)
    for scales, alone in (((1, 1), full), ((0, 0), base), ((1, 0), reference)):
        named = dict(zip(("reference_scale", "audio_scale"), scales, strict=True))
        one = pipeline(network, batch_passes=batch_passes, **named)
        torch.testing.assert_close(one._predictor(context, audio)(noisy, time), alone, atol=1e-5, rtol=1e-5)
        assert len(one.guidance.coefficients) == 1


@pytest.mark.parametrize("batch_passes", [True, False])
def test_what_each_pass_sees_is_a_setting(network, batch_passes):
    """Here the pass without the reference keeps the motion frames, and that without sound its latents."""
    context = network.read(torch.randn(1, 12, 6, 6), torch.randn(1, 4, 12, 6, 6))
    noisy, time, audio = torch.randn(1, 3, 12, 6, 6), torch.tensor([300]), sound(range(3))
    silence = network.hear(torch.zeros_like(audio))
    passes = {"base": ["motion"], "reference": ["reference", "motion", "motion_latents"]}
    for scales, keep_reference in (((0, 0), False), ((1, 0), True)):
        named = dict(zip(("reference_scale", "audio_scale"), scales, strict=True))
        pipe = pipeline(network, passes=passes, batch_passes=batch_passes, **named)
        latents = network.latents_of_motion(silence)
        expected = network(
            noisy,
            time,
            context,
            tokens=silence,
            motion_latents=latents if keep_reference else torch.zeros_like(latents),
            keep_reference=torch.tensor([keep_reference]),
            keep_motion=torch.tensor([True]),
        )
        torch.testing.assert_close(pipe._predictor(context, audio)(noisy, time), expected)


def test_without_an_audio_scale_the_sound_is_not_heard(network):
    silent = pipeline(network, audio_scale=0)
    other = lambda frames: sound(frames, seed=1)  # noqa: E731
    assert torch.equal(draw(silent, 5), draw(silent, 5, other))
    assert (draw(pipeline(network), 5) - draw(pipeline(network), 5, other)).abs().max() > 1e-3


def test_the_reference_network_runs_once_a_clip(network):
    """Over 25 steps and 3 passes: for the reference, and for the motion frames of each clip but the first."""
    runs = []
    handle = network.reference_unet.register_forward_hook(lambda _, args, __: runs.append(len(args[0])))
    passes = []
    counted = network.denoising_unet.register_forward_hook(lambda _, args, __: passes.append(len(args[0])))
    draw(pipeline(network, num_steps=25), 3)
    assert runs == [1]
    assert passes == [3] * 25
    runs.clear()
    draw(pipeline(network), 9)
    assert runs == [1, 4, 4]
    handle.remove()
    counted.remove()


def test_each_clip_sees_the_latents_before_it_and_no_picture_is_encoded_again(network, monkeypatch):
    pipe = pipeline(network)
    seen = []
    with_motion = network.with_motion

    def spy(context, motion, found):
        seen.append((motion, found))
        return with_motion(context, motion, found)

    monkeypatch.setattr(network, "with_motion", spy)
    encoded = []
    encode = pipe.codec.encode
    monkeypatch.setattr(pipe.codec, "encode", lambda images: encoded.append(images) or encode(images))
    latents = draw(pipe, 12)
    assert len(encoded) == 1
    for number, (motion, found) in enumerate(seen, start=1):
        back = TemporalSegments(**SEGMENTS).picks()[::-1]  # the oldest comes first
        frames = number * 3 - 1 - back
        assert found[0].tolist() == (frames >= 0).tolist()
        for place, frame in enumerate(frames.tolist()):
            expected = latents[:, frame] if frame >= 0 else torch.zeros_like(latents[:, 0])
            assert torch.equal(motion[:, place], expected)


def test_the_past_may_go_through_pictures(network, monkeypatch):
    """Then each clip is decoded and encoded once more, and what that loses the next clip does not see."""
    pipe = pipeline(network, past="pictures", decode_frames=2)
    decode = pipe.codec.decode
    monkeypatch.setattr(pipe.codec, "decode", lambda latents: (decode(latents) * 4).round() / 4)
    seen = []
    with_motion = network.with_motion
    monkeypatch.setattr(
        network,
        "with_motion",
        lambda context, motion, found: seen.append(motion) or with_motion(context, motion, found),
    )
    latents = draw(pipe, 6)
    (motion,) = seen
    pictures = pipe.codec.decode(latents[:, 2:3]).clamp(-1, 1)
    assert torch.equal(motion[:, -1:], pipe.codec.encode(pictures))
    assert (motion[:, -1] - latents[:, 2]).abs().max() > 1e-3


def test_a_chain_begins_as_shorter_ones_do_and_is_as_long_as_asked(network):
    pipe = pipeline(network)
    long = draw(pipe, 10)
    assert long.shape[1] == 10
    for length in (2, 3, 7):
        torch.testing.assert_close(draw(pipe, length), long[:, :length])


def test_frames_come_when_they_are_asked_for(network):
    pipe = pipeline(network, decode_frames=2)
    steps = []
    chunks = pipe.stream(
        torch.zeros(1, 3, 12, 12),
        10_000,
        lambda frames: torch.zeros(1, len(frames), 5, 2, 6),
        generator=seeded_generators([0]),
        on_step=lambda done, total: steps.append((done, total)),
    )
    first = list(itertools.islice(chunks, 3))
    assert [chunk.shape[1] for chunk in first] == [2, 1, 2]
    assert max(chunk.abs().max() for chunk in first) <= 1
    assert [done for done, _ in steps] == [1, 2, 3, 4]
    assert steps[0][1] == 2 * -(-10_000 // 3)


@pytest.mark.parametrize("pick", ["mean", "random"])
def test_other_ways_to_pick_the_past(network, pick):
    clip = draw(pipeline(network, segments={**SEGMENTS, "pick": pick}), 9)
    assert clip.isfinite().all()
    assert torch.equal(clip, draw(pipeline(network, segments={**SEGMENTS, "pick": pick}), 9))


def test_a_history_of_latents_is_a_ring():
    history = LatentHistory(5)
    frames = torch.arange(13.0)[None, :, None, None, None]
    back = torch.arange(5).numpy()
    for start, stop in ((0, 2), (2, 4), (4, 7), (7, 13)):
        history.append(frames[:, start:stop])
        latents, found = history.picked(back)
        expected = [max(stop - 1 - each, 0) for each in range(5)]
        assert latents.flatten().tolist() == [value * (stop > n) for n, value in enumerate(expected)]
        assert found.tolist() == [stop > each for each in range(5)]
    means, _ = history.meaned(TemporalSegments(per_segment=1, ratio=2, segments=2).ranges)
    assert means.flatten().tolist() == [12, 10.5]


def test_what_is_known_of_a_range_is_meaned():
    history = LatentHistory(4)
    history.append(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1))
    means, found = history.meaned(torch.tensor([[0, 1], [1, 4], [2, 4]]).numpy())
    assert means.flatten().tolist() == [3, 1, 0]
    assert found.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "sampling.num_steps is 0"),
        ({"past": "frames"}, "sampling.past='frames': choose latents or pictures"),
        ({"passes": {"none": []}}, r"sampling.passes.none: unknown option"),
        ({"passes": {"base": ["sound"]}}, "passes.base names sound: a pass sees reference, motion, audio"),
        ({"segments": {"per_segment": 3, "segments": 2}}, "give 6 motion frames, the network takes 4"),
    ],
)
def test_settings_that_make_no_sense(network, settings, message):
    with pytest.raises(ValueError, match=message):
        pipeline(network, **settings)


def live_bytes():
    """Bytes of all tensors that somebody holds."""
    gc.collect()
    alive = (each for each in gc.get_objects() if type(each) is torch.Tensor)
    return sum({each.data_ptr(): each.numel() * each.element_size() for each in alive}.values())


def test_memory_does_not_grow_with_the_chain(network):
    pipe = pipeline(network, num_steps=1)
    reference, before = torch.zeros(1, 3, 48, 48), live_bytes()

    def peak(clips):
        chunks = pipe.stream(reference, 3 * clips, sound, generator=seeded_generators([0]))
        return max(live_bytes() - before for _ in chunks)

    assert peak(10) <= 1.1 * peak(2)


def test_half_precision_draws_about_the_same():
    changes = {"denoising_unet": UNET, "reference_unet": UNET}
    whole, half = tiny.moved(**changes).eval(), tiny.moved(**changes).eval().to(torch.bfloat16)
    settings = {"reference_scale": 1.0, "audio_scale": 1.0}
    clips = [draw(pipeline(each, **settings), 5) for each in (whole, half)]
    assert clips[1].dtype == torch.float32
    assert (clips[1] - clips[0]).abs().mean() < 0.05 * clips[0].abs().mean()
