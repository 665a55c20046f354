"""Prepared clips that speak their own sound, through generate.py and evaluate.py."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from portraitgen.data.shards import ShardWriter
from portraitgen.faces.measure import mouth_closed_frame, mouth_opening
from portraitgen.media.yuv import rgb_to_uint8
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.evaluate.sources.samples import GeneratedSamples
from portraitgen.runs.generate.generate import generate
from portraitgen.runs.generate.stored_clips import ShardClip, ShardClips
from portraitgen.systems.aniportrait.own_sound import CannotSpeak, driven_by_own_sound
from portraitgen.systems.aniportrait.sound_chunks import count_frames
from portraitgen.systems.aniportrait.sound_driving import Speech
from tests.runs.tiny import save_tiny
from tests.synthetic import synthetic_clip, synthetic_landmarks

LENGTH, SIZE = 50, 64


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("speaking")
    with ShardWriter(root, "train") as writer:
        writer.write(synthetic_clip("face", num_frames=LENGTH, size=SIZE, sound=True))
    return str(root / "shards/train-000000.tar")


class LoudnessMesh:
    """Stands for an Audio2Mesh that learned the synthetic face: loudness opens the lower lip, no more."""

    landmark_scheme, device = "ibug68", torch.device("cpu")

    def __init__(self, frame_rate: float = 25.0) -> None:
        self.frame_rate = frame_rate

    class network:
        coordinates = 2

    def offsets(self, samples: torch.Tensor) -> np.ndarray:
        count = count_frames(len(samples), self.frame_rate)
        loudness = np.array([part.abs().amax() for part in samples.tensor_split(count)])
        offsets = np.zeros((len(loudness), 68, 2), np.float32)
        offsets[:, 65:68, 1] = (loudness - loudness.min())[:, None]
        return offsets


def speak(shards, frames, shift_s=0.0):
    speech = Speech(mesh=LoudnessMesh(), pose=None, head=None, manner=None, shift_s=shift_s)
    clips = ShardClips(shards)
    return driven_by_own_sound(ShardClip(clips, clips.keys[0], frames), speech)


def test_mouth_follows_its_sound_and_head_its_truth(shards):
    frames, true = np.arange(10, LENGTH), synthetic_landmarks(LENGTH, SIZE)
    clip, shifted = speak(shards, frames), speak(shards, frames, shift_s=0.4)
    opening = mouth_opening(clip.landmarks)
    assert np.corrcoef(opening, mouth_opening(true[frames]))[0, 1] > 0.95
    later = mouth_opening(shifted.landmarks)
    np.testing.assert_allclose(later[10:], opening[:-10], atol=1e-4)  # ten frames of 0.04 s
    np.testing.assert_allclose(clip.landmarks[:, 27:48], true[frames][:, 27:48], atol=0.1)
    np.testing.assert_array_equal(clip.landmarks[:, 27:48], shifted.landmarks[:, 27:48])
    assert clip.source["reference_frame"] == mouth_closed_frame(true)
    assert len(clip.sound) == len(frames) / 25 * 48_000


def test_clips_of_rates_that_do_not_divide_the_samples_keep_their_length(shards, monkeypatch):
    """30000/1001 frames a second of the clip, 29.97 of the network: the rates of one recording."""
    heard = []
    monkeypatch.setattr(ShardClips, "rate", lambda clips, key: Fraction(30000, 1001))
    mesh = LoudnessMesh(29.97)
    monkeypatch.setattr(mesh, "offsets", lambda samples: heard.append(samples) or np.zeros((LENGTH, 68, 2)))
    speech = Speech(mesh=mesh, pose=None, head=None, manner=None)
    clips = ShardClips(shards)
    driven_by_own_sound(ShardClip(clips, clips.keys[0], np.arange(LENGTH)), speech)
    assert count_frames(len(heard[0]), 29.97) == LENGTH


def test_clips_that_cannot_speak_are_told_apart_from_mistakes(shards):
    with pytest.raises(CannotSpeak, match="within the span"):
        speak(shards, np.array([1, 2, 4]))
    with pytest.raises(ValueError, match="by its whole length"):
        speak(shards, np.arange(LENGTH), shift_s=LENGTH / 25)


@pytest.fixture
def run(shards, tmp_path):
    weights = save_tiny(tmp_path / "stage.safetensors", shards=shards)
    mesh = save_tiny(tmp_path / "mesh.safetensors", experiment="aniportrait/tiny_audio2mesh")

    def run(*overrides):
        register_configs()
        given = [
            f"weights={weights}",
            f"shards={shards}",
            f"inputs.audio2mesh={mesh}",
            f"out={tmp_path / 'out'}",
        ]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            generate(compose("generate", [*given, *overrides]))
        return tmp_path / "out"

    return run


def test_what_is_generated_can_be_graded_with_its_sound_and_reference(run, shards):
    out = run("span=[0.8,1.0]", "inputs.shift_s=1.5")
    (row,) = (json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines())
    assert row["speech_shift_s"] == 1.5
    samples = GeneratedSamples(out)
    material = samples.read(samples.keys[0]).material
    assert material.audio.shape == (10 * 640,)
    truth = ShardClips(shards).pictures(row["key"], np.array([row["reference_frame"]]))
    assert torch.equal(material.reference, rgb_to_uint8(truth)[0])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inputs.manner=1", "inputs.manner: not with shards=…"),
        ("inputs.audio2mesh=nowhere.safetensors", "no such file: train it"),
        ("inputs.audio2mesh=null inputs.shift_s=1.0", "goes with shards=… inputs.audio2mesh=…"),
    ],
)
def test_what_cannot_be_done_is_said(run, override, message):
    with pytest.raises(ValueError, match=message):
        run(*override.split())
