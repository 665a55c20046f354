"""Loopy hears a real voice by a real speech encoder, from a video to its drift, as a user types it. L14."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from portraitgen.media.audio import read_audio
from portraitgen.media.decode import read_video
from portraitgen.training.weights import load_facts
from tests.command_line import run_command

ENCODER = "resemblyzer_voice_encoder.safetensors"
PHOTO = "{}/testdata/photos/single/astronaut.png"
LAST = "runs/loopy/tiny_stage2/weights/last.safetensors"


@pytest.fixture(scope="module")
def folder(shared, made_once):
    """Holds shards of a real clip, and weights of the tiny experiment that has heard it for two steps."""

    def make(folder):
        clip = shared / "testdata/clips/AOC_short.mp4"
        (folder / "videos").mkdir()
        (folder / "videos/talk.mp4").write_bytes(clip.read_bytes())
        words = ["source=videos", "out=shards", "size=64", "fps=25", "embed_every=0", "workers=0"]
        assert run_command("prepare.py", *words, folder=folder) == 0
        code = run_command(
            "train.py",
            "experiment=loopy/tiny_stage2",
            "speech=voice",
            f"paths.models={shared / 'testdata/models'}",
            "data.shards=shards/shards/train-*.tar",
            "stage.init_from=null",
            "trainer.max_steps=2",
            "callbacks.samples=null",
            folder=folder,
        )
        assert code == 0

    return made_once("real-voice", make)


def test_a_chain_that_a_real_voice_drives_and_its_drift(folder, shared, tmp_path, capfd):
    """29 clips of 4 frames: as long as the sound, in sync from the first sample to the last."""
    video = folder / "videos/talk.mp4"
    words = [f"weights={folder / LAST}", f"paths.models={shared / 'testdata/models'}"]
    code = run_command(
        "generate.py",
        *words,
        f"reference={PHOTO.format(shared)}",
        f"audio={video}",
        "out=made",
        "sampling.num_steps=1",
        folder=tmp_path,
    )
    assert code == 0
    (row,) = [json.loads(line) for line in (tmp_path / "made/samples.jsonl").read_text().splitlines()]
    voice, drawn = read_audio(video), tmp_path / "made" / row["video"]
    assert len(read_video(drawn)) == -(-len(voice) // 640) > 40
    heard = read_audio(drawn)[: len(voice)]
    spectra = np.fft.rfft(np.stack([voice[: len(heard)], heard]), n=2 * len(voice))
    lag = np.fft.irfft(spectra[1] * spectra[0].conj()).argmax()
    assert min(lag, 2 * len(voice) - lag) < 640

    assert run_command("evaluate.py", "generated=made", "metrics=drift", folder=tmp_path) == 0
    printed = capfd.readouterr().out
    assert "colour" in printed
    report = json.loads((tmp_path / "made/report/results.json").read_text())
    figures = report["rows"][0]
    assert min(figures["drift_colour"], figures["drift_sharpness"]) >= 0


def test_weights_name_the_speech_encoder_that_they_were_trained_with(folder, shared, tmp_path, capfd):
    """Another one is refused, by name, before it is heard with."""
    known = load_facts(folder / LAST)["bases"]["model.speech_encoder"]
    assert [*known["files"]] == [ENCODER]
    tensors = load_file(shared / "testdata/models" / ENCODER)
    (tmp_path / "models").mkdir()
    save_file({**tensors, "lstm.bias_ih_l0": tensors["lstm.bias_ih_l0"] + 1}, tmp_path / "models" / ENCODER)
    sound = shared / "testdata/speech/espeak_en.wav"
    path = tmp_path / "models" / ENCODER
    words = [f"weights={folder / LAST}", f"reference={PHOTO.format(shared)}", f"audio={sound}", "out=made"]
    words += ["paths.models=models", f"+model.speech_encoder.path={path}"]
    assert run_command("generate.py", *words, folder=tmp_path) == 1
    assert f"stands on another {ENCODER}" in capfd.readouterr().err
