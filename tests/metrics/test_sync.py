import json

import numpy as np
import pytest
import torch
from scipy.signal import medfilt

from portraitgen.metrics.mfcc import mfcc
from portraitgen.metrics.networks.syncnet import SyncNet, num_windows
from portraitgen.metrics.sync import MIN_WINDOWS, compare_shifts, score_sync

CASES = ["aligned", "shift_plus3", "shift_minus4", "random", "short_7_frames", "vshift10_dim16"]


@pytest.mark.golden
def test_mfcc_is_the_reference(goldens):
    golden = np.load(goldens / "metrics_mfcc.npz", allow_pickle=False)
    found = mfcc(golden["signal"])
    assert found.shape == (99, 13)
    np.testing.assert_allclose(found, golden["mfcc"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (400, 1), (401, 2), (560, 2), (561, 3)])
def test_mfcc_frames_cover_all_samples_and_silence_is_finite(samples, frames):
    found = mfcc(np.zeros(samples, np.int16))
    assert found.shape == (frames, 13)
    assert np.isfinite(found).all()


def test_mfcc_needs_mono():
    with pytest.raises(ValueError, match=r"mono samples .* got \[0\]"):
        mfcc(np.zeros(0))


@pytest.mark.golden
def test_number_of_windows_is_the_reference(goldens):
    cases = json.loads((goldens / "metrics_syncnet_windows.json").read_text())
    assert len(cases) == 6
    for case in cases:
        assert num_windows(case["n_frames"], case["n_samples"]) == case["n_windows"]
    assert num_windows(3, 16000) == 0


@pytest.mark.golden
@pytest.mark.filterwarnings("ignore:kernel_size exceeds")
@pytest.mark.parametrize("case", CASES)
def test_scores_are_the_reference(goldens, case):
    facts = json.loads((goldens / "metrics_syncnet_calc.json").read_text())["cases"][case]
    arrays = np.load(goldens / "metrics_syncnet_calc.npz", allow_pickle=False)
    lips, sounds = (torch.from_numpy(arrays[f"{case}__{name}"]) for name in ("im", "cc"))
    score = compare_shifts(lips, sounds, max_shift=facts["vshift"])
    assert len(lips) == facts["n"]
    assert score.offset == facts["av_offset"]
    assert score.distance == pytest.approx(facts["sync_d_min_dist"], rel=1e-5)
    assert score.confidence == pytest.approx(facts["sync_c_confidence"], rel=1e-5, abs=1e-5)
    np.testing.assert_allclose(score.shift_distances.numpy(), arrays[f"{case}__mdist"], rtol=1e-5)
    by_frame = score.frame_confidence.numpy()
    np.testing.assert_allclose(by_frame, arrays[f"{case}__framewise_conf"], rtol=1e-4, atol=1e-5)
    smooth = medfilt(by_frame, 9)
    np.testing.assert_allclose(smooth, arrays[f"{case}__framewise_conf_medfilt9"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", [-4, 0, 3])
def test_offset_is_how_far_the_sound_is_ahead(shift):
    speech = torch.randn(90, 64, generator=torch.Generator().manual_seed(0))
    lips, sounds = speech[10:80], speech[10 + shift : 80 + shift]
    assert compare_shifts(lips, sounds).offset == shift


def test_features_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"both be \[N, D\] .* got \[3, 4\] and \[2, 4\]"):
        compare_shifts(torch.zeros(3, 4), torch.zeros(2, 4))


def test_a_short_clip_has_no_score_but_a_reason(monkeypatch):
    network = SyncNet()
    frames, audio = torch.zeros(12, 3, 224, 224, dtype=torch.uint8), np.zeros(12 * 640, np.float32)
    score = score_sync(network, frames, audio)
    assert np.isnan([score.confidence, score.distance, score.offset]).all()
    assert score.reason == (
        "7 windows of lips and sound, fewer than 50: a clip of at least 55 frames at 25 fps is needed"
    )
    generator = torch.Generator().manual_seed(0)
    speech = torch.randn(MIN_WINDOWS + 10, 1024, generator=generator)
    long = (speech[5:-5], speech[2:-8])
    monkeypatch.setattr("portraitgen.metrics.sync.embed_clip", lambda *_: long)
    score = score_sync(network, frames[:1].expand(55, -1, -1, -1), np.zeros(55 * 640, np.float32))
    expected = compare_shifts(*long)
    assert (score.confidence, score.distance) == (expected.confidence, expected.distance)
    assert (abs(score.offset), score.reason) == (3, None)
