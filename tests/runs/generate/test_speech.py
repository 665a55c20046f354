"""Sound to video through generate.py with untrained weights: lengths, sync, seeds, heads, refusals."""

import json
import math
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.reference import read_reference
from portraitgen.media.audio import SAMPLE_RATE, encode_wav, read_audio
from portraitgen.media.decode import probe_video, read_video
from portraitgen.media.encode import write_video
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.generate.generate import generate
from portraitgen.runs.progress import progress
from portraitgen.systems.aniportrait.sound_driving import driven_by_sound
from portraitgen.systems.aniportrait.speech_models import load_speech
from portraitgen.training.weights import load_weights, save_weights
from tests.runs.tiny import load_trained, save_tiny

RATE = 25


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folder with weights of a stage and of the audio models, which move what they move at random."""
    folder = tmp_path_factory.mktemp("weights")
    save_tiny(folder / "stage1.safetensors")
    for name in ("audio2mesh", "audio2pose"):
        path = save_tiny(folder / f"{name}.safetensors", experiment=f"aniportrait/tiny_{name}")
        tensors, facts = load_weights(path)
        if name == "audio2mesh":  # a fresh one moves nothing
            tensors["out_fn.weight"] = torch.randn_like(tensors["out_fn.weight"]) * 0.02
        save_weights(path, tensors, config=facts["config"], step=0, system="aniportrait", provenance={})
    return folder


@pytest.fixture(scope="module")
def media(carphone, tmp_path_factory):
    """face.png, head.mp4 of the same man, and speech.wav: 0.23 s with a click at 0.1 s."""
    folder = tmp_path_factory.mktemp("media")
    frames = read_video(carphone)[:16:2]
    cv2.imwrite(str(folder / "face.png"), frames[0][..., ::-1])
    write_video(folder / "head.mp4", frames, fps=RATE)
    (folder / "speech.wav").write_bytes(encode_wav(speech(0.23)))
    return folder


def speech(seconds: float) -> np.ndarray:
    """Noise that swells and ebbs, with a click at 0.1 s."""
    samples = np.arange(round(seconds * SAMPLE_RATE))
    noise = np.random.default_rng(0).standard_normal(len(samples)) * np.sin(samples / 2000) * 0.05
    noise[1600:1700] = 0.9
    return noise.astype(np.float32)


@pytest.fixture
def run(weights, media, tmp_path):
    def run(*overrides):
        register_configs()
        given = [
            f"weights={weights / 'stage1.safetensors'}",
            f"reference={media / 'face.png'}",
            f"audio={media / 'speech.wav'}",
            f"inputs.audio2mesh={weights / 'audio2mesh.safetensors'}",
            f"out={tmp_path / 'out'}",
        ]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            generate(compose("generate", [*given, *overrides]))
        *_, line = (tmp_path / "out/samples.jsonl").read_text().splitlines()
        return tmp_path / "out", json.loads(line)

    return run


def test_a_sound_becomes_a_video_that_sounds_in_time(run, media, weights):
    out, row = run(f"inputs.audio2pose={weights / 'audio2pose.safetensors'}", "seed=5")
    assert (row["key"], row["mode"]) == ("face-speech", "sound")
    assert row["audio"] == str(media / "speech.wav")
    assert 0 <= row["manner"] < 100
    info = probe_video(out / row["video"])
    assert (info.num_frames, info.fps) == (math.ceil(0.23 * RATE), RATE)
    heard = read_audio(out / row["video"], sample_rate=48000)
    assert abs(np.argmax(np.abs(heard) > 0.4) / 48000 - 0.1) < 0.001
    assert abs(len(heard) / 48000 - info.num_frames / RATE) < 1 / RATE


def test_another_rate(run):
    out, row = run("fps=50")
    assert probe_video(out / row["video"]).num_frames == 12
    assert row["manner"] is None


@pytest.fixture
def spoken(weights, media):
    """The clip that a sound drives, without drawing it; `head` and the rest as `load_speech` takes them."""
    backend = DlibBackend()
    reference = read_reference(media / "face.png", backend, size=(64, 64), frame="face")

    def spoken(audio, *, pose=False, head=None, manner=None, seed=0):
        models = load_speech(
            audio2mesh=weights / "audio2mesh.safetensors",
            audio2pose=weights / "audio2pose.safetensors" if pose else None,
            head=head,
            manner=manner,
            shift_s=0.0,
            backend=backend,
            load=load_trained,
            raw=False,
            progress=progress,
        )
        return reference, driven_by_sound(reference, audio, models, fps=None, raw=False, seed=seed)

    return spoken


@pytest.mark.parametrize("seconds", [0.02, 0.1, 1, 5, 6, 10, 12.34])
def test_any_duration(spoken, seconds, tmp_path):
    """Also those at which the official code fails: 5 s and below, and multiples of 5 s."""
    path = tmp_path / "any.wav"
    path.write_bytes(encode_wav(speech(seconds)))
    _, clip = spoken(path, pose=True)
    samples = round(seconds * SAMPLE_RATE)
    assert len(clip.landmarks) == math.ceil(Fraction(samples * RATE, SAMPLE_RATE))
    assert abs(clip.sound.shape[-1] / 48000 - len(clip.landmarks) / RATE) < 1e-4
    assert np.isfinite(clip.landmarks).all()


def test_the_head_does_not_jump_where_chunks_meet(spoken, tmp_path):
    path = tmp_path / "long.wav"
    path.write_bytes(encode_wav(speech(13)))
    _, clip = spoken(path, pose=True)
    steps = np.linalg.norm(np.diff(clip.landmarks.mean(axis=1), axis=0), axis=-1)
    for joint in (150, 300):
        assert steps[joint - 3 : joint + 3].max() <= 1.5 * np.quantile(steps, 0.99)


def test_the_head_stands_still_or_follows_a_video_forth_and_back(spoken, media, tmp_path):
    path = tmp_path / "some.wav"
    path.write_bytes(encode_wav(speech(0.8)))
    still_points = [36, 39, 42, 45]  # eye corners, which the offsets of this test move little
    _, still = spoken(path)
    _, led = spoken(path, head=media / "head.mp4")
    moved = (led.landmarks - still.landmarks)[:, still_points].mean(axis=1)
    np.testing.assert_allclose(moved[0], 0, atol=1)  # smoothed: the first frames' mean
    assert np.ptp(moved, axis=0).max() > 1
    # 8 frames there, 6 back: after 14 it begins again.
    np.testing.assert_allclose(moved[14:], moved[: len(moved) - 14], atol=0.1)


def test_the_seed_chooses_the_manner_of_moving(spoken, media):
    def manner(seed):
        return spoken(media / "speech.wav", pose=True, seed=seed)[1].source["manner"]

    found = [manner(seed) for seed in range(4)]
    assert found == [manner(seed) for seed in range(4)]
    assert len(set(found)) > 1
    assert spoken(media / "speech.wav", pose=True, manner=1)[1].source["manner"] == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["inputs.audio2mesh=null"], r"convert the published audio2mesh\.pt \(ZJYang/AniPortrait on the hub"),
        (
            ["inputs.audio2mesh=none.safetensors"],
            r"inputs\.audio2mesh=none\.safetensors: no such file: train",
        ),
        (["inputs.audio2pose=none.safetensors"], r"audio2pose\.pt \(ZJYang"),
        (["inputs.audio2mesh={weights}/audio2pose.safetensors"], "not weights of an Audio2Mesh"),
        (["inputs.audio2pose={weights}/audio2mesh.safetensors"], "not weights of an Audio2Pose"),
        (["weights={weights}/audio2mesh.safetensors"], "draws no pictures"),
        (["audio={media}/head.mp4"], "there is no sound in this file"),
        (["audio={media}/empty.wav"], "there is no sound in this file"),
        (["driving={media}/head.mp4"], "driving: not with reference=… audio=… inputs.audio2mesh=…"),
        (["inputs.head={media}/template.npy"], "for an Audio2Mesh in 3D"),
        (
            ["inputs.head={media}/head.mp4", "inputs.audio2pose={weights}/audio2pose.safetensors"],
            r"inputs\.head: not with reference=… audio=… inputs.audio2mesh=… inputs.audio2pose=…",
        ),
        (["inputs.manner=3"], r"inputs\.manner goes with .* inputs\.audio2pose=…"),
        (
            ["inputs.manner=100", "inputs.audio2pose={weights}/audio2pose.safetensors"],
            r"inputs\.manner=100",
        ),
    ],
)
def test_what_cannot_be_done_is_said(run, weights, media, overrides, message):
    np.save(media / "template.npy", np.zeros((4, 6)))
    (media / "empty.wav").write_bytes(encode_wav(np.zeros(0)))
    with pytest.raises(ValueError, match=message):
        run(*(override.format(weights=weights, media=media) for override in overrides))
