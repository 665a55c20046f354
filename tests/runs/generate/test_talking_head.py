"""Loopy through generate.py with untrained weights: length, sound in sync, refusals. L14, L16."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from portraitgen.media.audio import SAMPLE_RATE, encode_wav, read_audio
from portraitgen.media.decode import read_video
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.generate.generate import generate
from portraitgen.training.weights import load_weights, save_weights
from tests.command_line import ROOT
from tests.peak_memory import measure
from tests.runs.tiny import save_tiny


def stage_weights(path, stage, *overrides):
    """Untrained, with all projections away from zero."""
    save_tiny(path, *overrides, experiment=f"loopy/tiny_{stage}")
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
            "stage 1, which draws single frames",
        ),
        ("stage2", ["reference=face.png"], "audio"),
        ("stage2", ["reference=nobody.png", "audio=speech.wav"], "nobody.png"),
        ("stage2", ["reference=face.png", "audio=face.png"], "audio=.*face.png"),
        ("stage2", ["reference=face.png", "audio=speech.wav", "size=33"], r"size=\[33,33\]: both sides"),
        ("stage2", ["reference=face.png", "audio=speech.wav", "driving=face.png"], "driving"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(folder, tmp_path, monkeypatch, stage, words, message):
    (folder / "speech.wav").write_bytes(encode_wav(click(0.2, at=0.1)))
    cv2.imwrite(str(folder / "nobody.png"), np.full((96, 96, 3), 128, np.uint8))
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=message):
        run(folder, tmp_path / "out", *words, stage=stage)


def peak_memory(*words, folder):
    """Bytes that `python generate.py <words>` held at most, in a process of its own.

    The allocator gives large arrays back at once: by default it keeps some, more or less by chance.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "generate.py", *words]
    return measure(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL).peak


@pytest.mark.slow
def test_ten_clips_take_no_more_memory_than_two(folder, tmp_path):
    size, clip_frames = 512, 12
    stage_weights(
        tmp_path / "large.safetensors",
        "stage2",
        "model.codec.factor=16",
        "model.network.denoising_unet.in_channels=768",
        "model.network.denoising_unet.out_channels=768",
        f"model.network.temporal.clip_frames={clip_frames}",
    )
    peaks = {}
    for clips in (2, 10):
        (tmp_path / "speech.wav").write_bytes(encode_wav(click(clips * clip_frames / 25, at=0.1)))
        words = ["weights=large.safetensors", f"reference={folder / 'face.png'}", "audio=speech.wav"]
        words += [f"size={size}", f"out=made{clips}", "sampling.num_steps=1"]
        peaks[clips] = peak_memory(*words, folder=tmp_path)
        (row,) = (tmp_path / f"made{clips}/samples.jsonl").read_text().splitlines()
        assert len(read_video(tmp_path / f"made{clips}" / json.loads(row)["video"])) == clips * clip_frames
    pictures = clip_frames * 3 * size * size * 4
    assert 8 * pictures > 2 * 0.1 * peaks[2]  # who kept them would be found out
    print(f"two clips {peaks[2] / 1e6:.0f} MB, ten {peaks[10] / 1e6:.0f} MB")
    assert peaks[10] <= 1.1 * peaks[2]
