"""Loopy through generate.py with untrained weights: length, sound in sync, refusals. L14, L16."""

import json

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from portraitgen.media.audio import SAMPLE_RATE, encode_wav, read_audio
from portraitgen.media.decode import read_video
from portraitgen.metrics.drift import drift, frame_colours, frame_sharpness
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.generate.generate import generate
from portraitgen.training.weights import load_weights, save_weights
from tests.runs.tiny import save_tiny

FIGURES = (frame_colours, frame_sharpness)


def stage_weights(path, stage):
    """Untrained, with all projections away from zero."""
    save_tiny(path, experiment=f"loopy/tiny_{stage}")
    tensors, facts = load_weights(path)
    torch.manual_seed(0)
    tensors = {name: each if each.any() else 0.1 * torch.randn_like(each) for name, each in tensors.items()}
    data = {"examples": {"size": 64}}
    provenance = {"data": data, "landmark_scheme": "ibug68", "shards": []}
    save_weights(path, tensors, config=facts["config"], step=0, system="loopy", provenance=provenance)


@pytest.fixture(scope="module")
def folder(carphone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loopy")
    for stage in ("stage1", "stage2"):
        stage_weights(folder / f"{stage}.safetensors", stage)
    cv2.imwrite(str(folder / "face.png"), read_video(carphone)[0][..., ::-1])
    return folder


def click(seconds, at):
    """Faint noise, with a click."""
    samples = 0.01 * np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE))
    samples[round(at * SAMPLE_RATE) :][:80] = 0.9
    return samples.astype(np.float32)


def run(folder, out, *overrides, stage="stage2"):
    register_configs()
    given = [f"weights={folder / f'{stage}.safetensors'}", f"out={out}", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        generate(compose("generate", given))
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("samples", [640 * 4, 640 * 9 + 1])
def test_the_clip_is_as_long_as_the_sound_to_the_frame_and_in_sync(folder, tmp_path, samples):
    seconds = samples / SAMPLE_RATE
    (folder / "speech.wav").write_bytes(encode_wav(click(seconds, at=0.1)))
    (row,) = run(folder, tmp_path, f"reference={folder / 'face.png'}", f"audio={folder / 'speech.wav'}")
    video = tmp_path / row["video"]
    frames = read_video(video)
    assert len(frames) == -(-samples // 640)
    assert frames[0].shape == (64, 64, 3)
    heard = read_audio(video)
    assert heard is not None
    assert abs(int(np.abs(heard).argmax()) - 0.1 * SAMPLE_RATE) < SAMPLE_RATE / 25
    again = tmp_path / "again"
    run(folder, again, f"reference={folder / 'face.png'}", f"audio={folder / 'speech.wav'}")
    assert np.array_equal(read_video(again / row["video"]), frames)


def test_prepared_clips_speak_their_own_sound_or_another(folder, talking_man, tmp_path):
    shards = f"shards={talking_man / 'data/shards/train-*.tar'}"
    (row,) = run(folder, tmp_path / "own", shards, "span=[0.0,0.1]")
    (turned,) = run(folder, tmp_path / "turned", shards, "span=[0.0,0.1]", "inputs.shift_s=0.2")
    drawn = (("own", row), ("turned", turned))
    clips = [read_video(tmp_path / name / each["video"]) for name, each in drawn]
    assert len(clips[0]) == len(clips[1])
    assert not np.array_equal(*clips)


@pytest.mark.parametrize(
    ("stage", "words", "message"),
    [
        (
            "stage1",
            ["reference=face.png", "audio=speech.wav"],
            "stage 1, which draws frames",
        ),
        ("stage2", ["reference=face.png"], "audio"),
        ("stage2", ["reference=face.png", "audio=face.png"], "audio=.*face.png"),
        ("stage2", ["reference=face.png", "audio=speech.wav", "size=33"], r"size=\[33,33\]: both sides"),
        ("stage2", ["reference=face.png", "audio=speech.wav", "driving=face.png"], "driving"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(folder, tmp_path, monkeypatch, stage, words, message):
    (folder / "speech.wav").write_bytes(encode_wav(click(0.2, at=0.1)))
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=message):
        run(folder, tmp_path / "out", *words, stage=stage)


def test_a_long_chain_on_a_real_clip(folder, shared, tmp_path):
    """A real face and its own voice: 29 clips of 4 frames, in sync from the first sample to the last."""
    video = shared / "testdata/clips/AOC_short.mp4"
    cv2.imwrite(str(tmp_path / "face.png"), read_video(video)[0][..., ::-1])
    out = tmp_path / "out"
    (row,) = run(folder, out, f"reference={tmp_path / 'face.png'}", f"audio={video}")
    voice = read_audio(video)
    frames = read_video(out / row["video"])
    assert len(frames) == -(-len(voice) // 640) > 40
    heard = read_audio(out / row["video"])[: len(voice)]
    spectra = np.fft.rfft(np.stack([voice[: len(heard)], heard]), n=2 * len(voice))
    lag = np.fft.irfft(spectra[1] * spectra[0].conj()).argmax()
    assert min(lag, 2 * len(voice) - lag) < 640
    drifts = [drift(figure(torch.from_numpy(frames).movedim(-1, 1)).numpy()) for figure in FIGURES]
    assert np.isfinite(drifts).all()
