"""Lips against sound: crops for SyncNet, mouth opening, motion; on a real speaking face."""

import numpy as np
import pytest
import torch

from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.measure import mouth_opening
from portraitgen.faces.types import Track
from portraitgen.media.audio import read_audio
from portraitgen.media.decode import read_video
from portraitgen.metrics.grader import ClipGrader, GradedClip, MissingWeights
from portraitgen.metrics.graders.motion import MotionGrader
from portraitgen.metrics.graders.mouth import MouthGrader
from portraitgen.metrics.graders.sync import SyncGrader
from portraitgen.metrics.mouth import (
    UNVARYING,
    frame_loudness,
    mouth_audio_correlation,
    mouth_opening_error,
    mouth_truth_correlation,
)
from portraitgen.metrics.networks.syncnet import SyncNet
from portraitgen.metrics.one_pass import grade_clip, grade_together
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.scores import COPY_REFERENCE, GENERATED, TRUTH
from portraitgen.metrics.sync import SyncScore
from portraitgen.metrics.sync_crop import crop_for_syncnet, frames_at_syncnet_rate

FPS = 30000 / 1001
COUNT = 30


def test_frames_are_those_nearest_to_25_a_second():
    assert frames_at_syncnet_rate(10, 25.0).tolist() == list(range(10))
    assert frames_at_syncnet_rate(6, 50.0).tolist() == [0, 2, 4]
    assert frames_at_syncnet_rate(3, 12.5).tolist() == [0, 1, 1, 2, 2, 2]
    chosen = frames_at_syncnet_rate(61, FPS)
    assert len(chosen) == 51
    assert np.abs(chosen / FPS - np.arange(51) / 25).max() <= 0.5 / FPS + 1e-9


def track(boxes, frames):
    count = len(frames)
    return Track(
        frames=np.array(frames, np.int64),
        boxes=np.array(boxes, np.float32),
        scores=np.ones(count, np.float32),
        landmarks=np.zeros((count, 68, 2), np.float32),
        keypoints=np.zeros((count, 5, 2), np.float32),
    )


def test_the_crop_is_that_of_syncnets_pipeline():
    """Box half side 50 at (150, 120): 140 to each side, from 50 above to 90 below the centre."""
    ramp = torch.arange(300)[None, None, None].expand(20, 3, 240, 300) % 256
    frames = ramp.to(torch.uint8).contiguous()
    frames[:, 1] = torch.arange(240)[None, :, None].expand(20, 240, 300)
    still = track([[100, 70, 200, 170]] * 3, [2, 8, 15])
    crops = crop_for_syncnet(frames, still)
    assert crops.shape == (14, 3, 224, 224), "first to last frame of the track, the gaps between filled"
    middle = crops[7].float()
    # 140 pixels became 224: pixel j shows (j + 0.5) · 140 / 224 - 0.5 from the crop's edge.
    source = (np.arange(224) + 0.5) * 140 / 224 - 0.5
    inner = slice(2, -2)
    np.testing.assert_allclose(middle[0, 100, inner], (80 + source)[inner], atol=1)
    np.testing.assert_allclose(middle[1, inner, 100], (70 + source)[inner], atol=1)
    at_edge = crop_for_syncnet(frames, track([[0, 0, 100, 100]] * 14, range(14)))
    assert (at_edge[7, :, 100, 0] == 110).all(), "grey outside the picture"


def test_loudness_and_mouth_follow_what_they_measure():
    audio = np.concatenate([np.zeros(640), np.full(640, 0.5), np.full(320, 0.5)]).astype(np.float32)
    np.testing.assert_allclose(frame_loudness(audio, 3, fps=25), [0, 0.5, np.nan])
    random = np.random.default_rng(0)
    landmarks = np.tile(random.normal(size=(1, 68, 2)), (60, 1, 1))
    opening = random.uniform(0, 1, 60)
    landmarks[:, 61:64, 1], landmarks[:, 65:68, 1] = 0, opening[:, None]
    landmarks[:, 65:68, 0] = landmarks[:, [63, 62, 61], 0]
    loud = np.repeat(opening, 640)
    assert mouth_audio_correlation(landmarks, loud, fps=25)[0] == pytest.approx(1)
    assert mouth_audio_correlation(landmarks, 1 - loud, fps=25)[0] == pytest.approx(-1)
    shifted = mouth_audio_correlation(landmarks, np.roll(loud, 20 * 640), fps=25)[0]
    assert abs(shifted) < 0.5
    assert mouth_audio_correlation(landmarks, loud[: 640 * 20], fps=25) == (
        pytest.approx(np.nan, nan_ok=True),
        "face and sound together in 20 frames, fewer than 25",
    )
    tone = 0.3 * np.sin(np.arange(60 * 640) * 2 * np.pi * 440 / 16000)
    hiss = 3e-5 * random.choice((-1, 0, 1), 60 * 640)
    for sound in (np.full(60 * 640, 0.37), np.zeros(60 * 640), tone, hiss):
        value, why = mouth_audio_correlation(landmarks, sound.astype(np.float32), fps=25)
        assert np.isnan(value)
        assert why == UNVARYING
    assert "never" in mouth_audio_correlation(landmarks[:1].repeat(60, axis=0), loud, fps=25)[1]
    np.testing.assert_allclose(mouth_opening_error(landmarks * 3 + 7, landmarks), 0, atol=1e-12)
    assert mouth_truth_correlation(landmarks * 3 + 7, landmarks)[0] == pytest.approx(1)
    assert abs(mouth_truth_correlation(np.roll(landmarks, 20, axis=0), landmarks)[0]) < 0.5
    assert np.isnan(mouth_opening_error(landmarks * np.nan, landmarks)).all()


@pytest.fixture(scope="module")
def speaker(shared):
    """A woman who speaks, every third pixel: what the graders get."""
    file = shared / "testdata/clips/AOC_short.mp4"
    frames = torch.from_numpy(read_video(file)[:COUNT, ::3, ::3]).movedim(-1, 1).contiguous()
    return Pictures(frames, DlibBackend(smallest_side=160), name="speaker"), read_audio(file)


def clip(shown, *, method=GENERATED, truth=None, audio=None):
    return GradedClip(
        video="v",
        method=method,
        pictures=shown,
        truth=truth,
        reference=None,
        driving=None if truth is None else truth.landmarks,
        fps=FPS,
        audio=audio,
        prompt=None,
    )


def test_a_clip_is_its_own_truth(speaker):
    shown, audio = speaker
    for grader in (MotionGrader(), MouthGrader()):
        assert isinstance(grader, ClipGrader)
        true = grade_clip(grader, clip(shown, method=TRUTH, truth=shown, audio=audio))
        same = grade_clip(grader, clip(shown, truth=shown, audio=audio))
        for name in ("glo_error", "exp_error", "flicker_error", "mouth_error"):
            if name in same.scores:
                assert not np.nan_to_num(same.scores[name]).any()
        assert all(np.isfinite(same.scores[name]).all() for name in true.scores if name not in same.reasons)
    moving = grade_clip(MotionGrader(), clip(shown, truth=shown))
    still = Pictures(shown.frames.tensor[:1].expand(COUNT, -1, -1, -1), shown.backend, name="still")
    frozen = grade_clip(MotionGrader(), clip(still, truth=shown))
    assert moving.scores["glo"] > 1 > 1e-9 > frozen.scores["glo"]
    assert frozen.scores["temporal_flicker"] == 1 > moving.scores["temporal_flicker"]
    assert frozen.scores["glo_error"] == pytest.approx(float(moving.scores["glo"]))
    alone = grade_clip(MotionGrader(), clip(shown))
    assert alone.reasons["glo_error"] == "no true frames are given"
    mute = grade_clip(MouthGrader(), clip(shown))
    np.testing.assert_allclose(mute.scores["mouth_opening"], mouth_opening(shown.landmarks))
    assert mute.reasons == {
        "mouth_error": "no landmarks drive this clip",
        "mouth_truth_correlation": "no landmarks drive this clip",
        "mouth_audio_correlation": "no sound",
    }


@pytest.mark.filterwarnings("ignore:kernel_size exceeds")
def test_a_sound_is_heard_once_for_all_methods_and_a_copied_face_seen_once(speaker, tmp_path, monkeypatch):
    monkeypatch.setattr("portraitgen.metrics.sync.MIN_WINDOWS", 5)
    shown, audio = speaker
    torch.manual_seed(0)
    torch.save(SyncNet().state_dict(), tmp_path / "syncnet_v2.model")
    graders = [SyncGrader(str(tmp_path / "syncnet_v2.model")) for _ in range(3)]
    frames = shown.frames.tensor[:16]
    talks, copy = (
        Pictures(each, shown.backend, name="frames") for each in (frames, frames[:1].expand(16, -1, -1, -1))
    )
    heard, seen = [], []
    network = graders[0].network
    network.netcnnaud.register_forward_hook(lambda *given: heard.append(len(given[2])))
    network.netcnnlip.register_forward_hook(lambda *given: seen.append(given[2].shape[2]))
    clips = {TRUTH: clip(talks, method=TRUTH, audio=audio), COPY_REFERENCE: clip(copy, audio=audio.copy())}
    found = grade_together(clips, {"sync": graders[0]})
    windows = sum(heard)
    assert windows >= 5, "several chunks"
    assert sum(seen) == windows + 1
    for grader, (method, each) in zip(graders[1:], clips.items(), strict=True):
        assert grade_clip(grader, each).scores == found[method].scores
    grade_clip(graders[0], clip(talks, audio=np.roll(audio, 3200)))
    assert sum(heard) == 2 * windows, "another sound"


@pytest.mark.filterwarnings("ignore:kernel_size exceeds")
def test_sync_is_scored_on_the_followed_face_or_says_why_not(speaker, tmp_path, monkeypatch):
    shown, audio = speaker
    torch.manual_seed(0)
    torch.save(SyncNet().state_dict(), tmp_path / "syncnet_v2.model")
    grader = SyncGrader(str(tmp_path / "syncnet_v2.model"))
    short = Pictures(shown.frames.tensor[:12], shown.backend, name="short")
    reasons = grade_clip(grader, clip(short, audio=audio)).reasons
    assert reasons["sync_d"].startswith("5 windows of lips and sound, fewer than 50")
    # 50 windows of SyncNet take ten seconds; the way there is the same for few windows.
    monkeypatch.setattr("portraitgen.metrics.sync.MIN_WINDOWS", 5)
    grades = grade_clip(grader, clip(short, audio=audio))
    assert grades.reasons == {}
    assert grades.scores["sync_d"] > 0
    assert abs(grades.scores["sync_offset"]) == grades.scores["sync_offset_error"] <= 15
    late = SyncScore(1.0, 7.0, -4.0, torch.zeros(0), torch.zeros(0))
    with monkeypatch.context() as patched:
        patched.setattr("portraitgen.metrics.graders.sync.compare_shifts", lambda *_: late)
        late_sound = grade_clip(grader, clip(short, audio=audio))
        assert late_sound.scores["sync_offset"] == -4, "it says which is late"
    silence = grade_clip(grader, clip(short, audio=audio * 0))
    assert silence.reasons == dict.fromkeys(grader.metrics, UNVARYING)
    assert grade_clip(grader, clip(shown)).reasons["sync_c"] == "no sound"
    nobody = Pictures(torch.zeros(60, 3, 64, 64, dtype=torch.uint8), shown.backend, name="black")
    grades = grade_clip(grader, clip(nobody, audio=audio))
    assert grades.reasons["sync_c"] == "no face is followed through the clip"
    assert np.isnan(grades.scores["sync_c"])
    with pytest.raises(
        MissingWeights, match=r"weights is not set; fetch syncnet_v2.model from the VGG group"
    ):
        SyncGrader()
