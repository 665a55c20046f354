"""Lip-sync scores of prepared clips, by SyncNet with random weights."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from portraitgen.faces.types import Track
from portraitgen.media.audio import encode_wav
from portraitgen.media.decode import read_video
from portraitgen.metrics.networks.syncnet import SyncNet
from portraitgen.metrics.sync import score_sync
from portraitgen.metrics.sync_crop import crop_for_syncnet
from portraitgen.runs.prepare.lip_sync import LipSyncScores
from tests.synthetic import synthetic_clip

LENGTH = 58


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "syncnet_v2.model"
    torch.save(SyncNet().state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def clip():
    """A talking face that is lost for its first two frames, with noise for its voice."""
    sound = np.random.default_rng(0).normal(0, 0.1, LENGTH * 640)
    drawn = synthetic_clip("face", num_frames=LENGTH, size=64, valid=np.arange(LENGTH) > 1)
    return replace(drawn, audio=encode_wav(sound))


def test_scores_are_those_of_syncnet_on_the_face_and_its_sound(clip, weights):
    scored = LipSyncScores(weights)(clip)
    face = clip.tracks[0]
    found = np.arange(2, LENGTH)
    track = Track(found, face.boxes[2:], face.scores[2:], face.landmarks[2:], face.keypoints[2:])
    frames = torch.from_numpy(read_video(clip.video)).permute(0, 3, 1, 2)
    sound = np.random.default_rng(0).normal(0, 0.1, LENGTH * 640)[2 * 640 :]
    network = SyncNet()
    network.load_state_dict(torch.load(weights, weights_only=True))
    expected = score_sync(network.eval(), crop_for_syncnet(frames, track), sound)
    assert expected.reason is None
    assert scored.scores["sync_conf"] == pytest.approx(expected.confidence, abs=1e-3)
    assert scored.scores["sync_dist"] == pytest.approx(expected.distance, abs=1e-3)
    assert scored.scores["sync_offset"] == expected.offset
    assert scored.scores["min_face"] == clip.scores["min_face"]


def test_clips_that_syncnet_cannot_judge_have_no_score(clip, weights):
    step = LipSyncScores(weights)
    silent = replace(clip, audio=None)
    # Twice as fast: half the time, too few windows.
    short = replace(clip, fps=Fraction(50))
    nobody = replace(
        clip, tracks=(replace(clip.tracks[0], boxes=np.full_like(clip.tracks[0].boxes, np.nan)),)
    )
    for sample in (silent, short, nobody):
        assert step(sample) is sample


def test_missing_weights_are_said_at_once():
    with pytest.raises(ValueError, match=r"sync\.weights=nowhere: no such file; fetch syncnet_v2\.model"):
        LipSyncScores("nowhere")
