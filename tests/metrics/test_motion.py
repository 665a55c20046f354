import json

import numpy as np
import pytest
import torch

from portraitgen.faces.dlib import DlibBackend
from portraitgen.media.decode import read_video
from portraitgen.media.interpolation import FlowBetween
from portraitgen.metrics.grader import ClipGrader, GradedClip
from portraitgen.metrics.graders.smoothness import SmoothnessGrader
from portraitgen.metrics.motion import UPPER_FACE, frame_differences, motion_variance, steadiness
from portraitgen.metrics.one_pass import grade_clip
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.scores import GENERATED


@pytest.mark.golden
@pytest.mark.parametrize("case", ["talk", "rigid", "static"])
def test_glo_and_exp_are_the_golden_definition(goldens, case):
    expected = json.loads((goldens / "metrics_glo_exp.json").read_text())[case]
    landmarks = np.load(goldens / "metrics_glo_exp.npz", allow_pickle=False)[case]
    glo, exp = motion_variance(landmarks, frame_size=512)
    assert glo == pytest.approx(expected["glo_mean"], rel=1e-9, abs=1e-12)
    assert exp == pytest.approx(expected["exp_mean"], rel=1e-9, abs=1e-12)
    assert len(UPPER_FACE) == 37


def test_motion_is_that_of_a_frame_of_512_over_frames_with_a_face(goldens):
    landmarks = np.load(goldens / "metrics_glo_exp.npz", allow_pickle=False)["talk"]
    expected = motion_variance(landmarks, frame_size=512)
    assert motion_variance(landmarks / 4, frame_size=128) == pytest.approx(expected)
    missing = np.full((3, 68, 2), np.nan)
    assert motion_variance(np.concatenate([landmarks, missing]), frame_size=512) == pytest.approx(expected)
    assert np.isnan(motion_variance(np.concatenate([landmarks[:1], missing]), frame_size=512)).all()
    with pytest.raises(ValueError, match=r"\[T, 68, 2\] and the frame size .* got \[12, 5, 2\] and 512"):
        motion_variance(landmarks[:, :5], frame_size=512)


def grid(frames, factor, modulus):
    values = (np.arange(frames * 12 * 16 * 3) * factor % modulus).astype(np.uint8)
    return torch.from_numpy(values.reshape(frames, 12, 16, 3)).permute(0, 3, 1, 2)


def test_differences_of_large_frames_are_exact_however_they_lie_in_memory():
    """More columns than OpenCV takes for channels, and channels last as decoders give them."""
    frames = torch.randint(
        0, 256, (2, 700, 1100, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    ).movedim(-1, 1)
    expected = (frames[1].long() - frames[0].long()).abs().double().mean()
    assert frame_differences(frames).tolist() == [expected.item()]
    assert frame_differences(frames.contiguous()).tolist() == [expected.item()]


class Given:
    """Foretells frames that are given, in their order."""

    def __init__(self, frames):
        self.frames = iter(frames / 127.5 - 1)

    def __call__(self, first, second, count):
        return [next(self.frames) for _ in range(count)]


def smoothness(frames, between):
    pictures = Pictures(frames, DlibBackend(), name="video")
    nothing = dict.fromkeys(("truth", "reference", "driving", "audio", "prompt"))
    clip = GradedClip(video="v", method=GENERATED, pictures=pictures, fps=30.0, **nothing)
    return grade_clip(SmoothnessGrader(between), clip).scores["smoothness_flow"]


@pytest.mark.golden
def test_flicker_and_smoothness_are_the_reference(goldens):
    golden = json.loads((goldens / "metrics_vbench.json").read_text())
    frames, between = grid(9, 37, 251), grid(4, 53, 241)
    differences = frame_differences(frames)
    np.testing.assert_allclose(differences.numpy(), golden["mae"], rtol=1e-6)
    assert steadiness(differences) == pytest.approx(golden["temporal_flickering"], rel=1e-6)
    assert smoothness(frames, Given(between)) == pytest.approx(golden["motion_smoothness"], rel=1e-6)
    assert torch.equal(frame_differences(frames / 127.5 - 1), differences)


def test_perfect_interpolation_is_smooth_and_a_still_picture_steady():
    frames = grid(8, 37, 251)
    assert smoothness(frames, Given(frames[1:7:2])) == 1
    assert steadiness(frame_differences(frames[:1].expand(5, -1, -1, -1))) == 1
    with pytest.raises(ValueError, match=r"of 2 frames, got \[1, 3, 12, 16\]"):
        frame_differences(frames[:1])


def test_smoothness_tells_a_shuffled_video_and_a_still_one(carphone):
    assert isinstance(SmoothnessGrader(FlowBetween()), ClipGrader)
    video = torch.from_numpy(read_video(carphone)[:12]).movedim(-1, 1)
    shuffled = video[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    shuffled, whole, still, short = (
        smoothness(frames, FlowBetween())
        for frames in (shuffled, video, video[:1].expand(12, -1, -1, -1), video[:2])
    )
    assert 0.9 < shuffled < whole < 1
    assert still > 0.9999
    assert np.isnan(short)


def test_of_a_clip_that_stands_still_one_frame_is_foretold_over_all_chunks(carphone):
    """Of a moving one every other, and of the part of one that stands still one."""
    man = torch.from_numpy(read_video(carphone)[:20]).movedim(-1, 1)
    still = man[:1].expand(40, -1, -1, -1)
    for frames, foretold in ((still, 1), (man, 9), (torch.cat([man[:3], still, man]), 24)):
        between = Counted()
        smoothness(frames, between)
        assert between.calls == foretold


class Counted(FlowBetween):
    calls = 0

    def __call__(self, first, second, count):
        self.calls += 1
        return super().__call__(first, second, count)
