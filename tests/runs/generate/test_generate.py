"""From weights to clips to figures: what generate.py writes is what evaluate.py grades."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException

from portraitgen.data.catalog import find_shards
from portraitgen.data.manifest import shard_digest
from portraitgen.data.shards import ShardWriter
from portraitgen.faces.recognition.recognizer import load_recognition
from portraitgen.media.audio import encode_wav, read_audio
from portraitgen.media.decode import read_video
from portraitgen.media.encode import write_video
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.evaluate.evaluate import evaluate
from portraitgen.runs.evaluate.sources.samples import read_samples
from portraitgen.runs.generate.generate import generate
from portraitgen.runs.generate.stored_clips import ShardClips
from portraitgen.training.weights import load_weights, save_weights
from tests.data.remote.servers import web_server
from tests.runs.tiny import save_tiny
from tests.synthetic import synthetic_clip

FRAMES = 16


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A shard with two drawn faces; the second is not seen in its last quarter."""
    root = tmp_path_factory.mktemp("data")
    valid = np.arange(FRAMES) < 12
    with ShardWriter(root, "train") as writer:
        writer.write(synthetic_clip("seen", num_frames=FRAMES, size=64, seed=0))
        writer.write(synthetic_clip("lost", num_frames=FRAMES, size=64, seed=1, valid=valid))
    return str(root / "shards" / "train-*.tar")


@pytest.fixture(scope="module")
def weights(shards, tmp_path_factory):
    """An untrained tiny network, with what train.py says of it."""
    path = tmp_path_factory.mktemp("run") / "last.safetensors"
    return save_tiny(path, shards=shards, digests=[shard_digest(shard) for shard in find_shards(shards)])


@pytest.fixture
def config(weights, shards, tmp_path):
    """Composes a command; `name` is generate or evaluate."""

    def config(name, *overrides):
        register_configs()
        given = {
            "generate": [f"weights={weights}", f"out={tmp_path / 'out'}"],
            "evaluate": [f"generated={tmp_path / 'out'}"],
        }
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(name, [*given[name], *overrides])

    return config


def test_clips_of_a_span_are_generated_and_described(config, shards, tmp_path):
    generate(config("generate", f"shards={shards}", "span=[0.75,1.0]", "seed=3"))
    (sample,) = read_samples(tmp_path / "out")
    assert sample["key"].startswith("seen-"), "a clip without a face in the span is left out"
    assert sample["frames"] == [12, 13, 14, 15]
    assert sample["train_span"] == [0.0, 0.75]
    assert sample["frames_trained_on"] == 0
    assert (sample["seed"], sample["step"], sample["commit"]) == (3, 0, "abc")
    assert sample["recognizers"] == {}, "no loss looked with one"
    assert read_video(tmp_path / "out" / sample["video"]).shape == (4, 64, 64, 3)
    assert (tmp_path / "out" / sample["sheet"]).read_bytes().startswith(b"\x89PNG")
    with av.open(str(tmp_path / "out" / sample["panel"])) as panel:
        assert panel.streams.video[0].frames == 4
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.is_file()]


def test_what_was_trained_on_is_known_of_clips_at_an_address(config, shards, tmp_path, monkeypatch):
    """It was null: the manifest was looked for on the disk."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with web_server(Path(shards).parent.parent) as port:
        address = f"http://127.0.0.1:{port}/shards/train-000000.tar"
        (tmp_path / "many.csv").write_text(f"shards\n{address}\n")
        generate(config("generate", f"requests={tmp_path}/many.csv", "span=[0.5,1.0]", "limit=1"))
    (sample,) = read_samples(tmp_path / "out")
    assert sample["shard"] == address
    assert sample["train_span"] == [0.0, 0.75]
    assert sample["frames_trained_on"] == 4


def test_tasks_of_an_array_generate_shares_that_are_graded_as_one(config, shards, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    words, out = [f"shards={shards}", "span=[0.0,0.25]"], tmp_path / "out"
    for number in (2, 0):
        generate(config("generate", *words, f"share=[{number},3]", f"out={out}/share-{number}-of-3"))
    assert "fewer clips or rows than shares" in caplog.text
    with pytest.raises(ValueError, match="lacks share 1 of 3"):
        read_samples(out)
    generate(config("generate", *words, "share=[1,3]", f"out={out}/share-1-of-3"))
    rows = read_samples(out)
    assert len({row["key"] for row in rows}) == 2
    assert all((out / row["video"]).is_file() for row in rows)
    evaluate(config("evaluate", "metrics=identity", "metrics.checks=[]"))
    assert json.loads((out / "report/results.json").read_text())["protocol"]["videos"]
    (out / "share-0-of-2").mkdir()
    with pytest.raises(ValueError, match="shares of different generations"):
        read_samples(out)


@pytest.mark.parametrize("share", ["[3,3]", "[0]", "[-1,2]"])
def test_a_share_that_cannot_be_is_refused(config, shards, share):
    with pytest.raises(ValueError, match=r"share=.* give \[number,count\]"):
        generate(config("generate", f"shards={shards}", f"share={share}"))


def test_one_request_has_no_shares(config):
    with pytest.raises(ValueError, match=r"share=\[0, 2\]: it divides up"):
        generate(config("generate", "reference=a.png", "driving=b.png", "share=[0,2]"))


def test_every_third_frame_is_drawn_and_the_others_made(config, shards, tmp_path):
    words = [f"shards={shards}", "span=[0.0,0.5]", "limit=1"]
    generate(config("generate", *words, "interpolation=flow"))
    (sample,) = read_samples(tmp_path / "out")
    assert sample["frames"] == list(range(8))
    assert sample["interpolation"]["every"] == 3
    assert read_video(tmp_path / "out" / sample["video"]).shape == (8, 64, 64, 3)
    with pytest.raises(ValueError, match=r"choose what makes the frames between \(interpolation=flow\)"):
        generate(config("generate", *words, "interpolation.every=2"))
    with pytest.raises(InstantiationException, match=r"interpolation\.between\.file=nowhere: no such file"):
        generate(config("generate", *words, "interpolation=film", "interpolation.between.file=nowhere"))


def test_who_judged_in_training_does_not_grade(config, shards, weights, tmp_path):
    """The weights name the network that their identity loss looked with; generate.py hands that on."""
    tensors, facts = load_weights(weights)
    judged = {"recognizers": {load_recognition("dlib").digest: "dlib"}}
    named = {key: facts.pop(key) for key in ("config", "step", "system")}
    save_weights(tmp_path / "judged.safetensors", tensors, **named, provenance=facts | judged)
    words = [f"weights={tmp_path}/judged.safetensors", f"shards={shards}", "span=[0.0,0.2]", "limit=1"]
    generate(config("generate", *words))
    (sample,) = read_samples(tmp_path / "out")
    assert sample["recognizers"] == judged["recognizers"]
    with pytest.raises(ValueError, match=r"metrics\.graders\.identity_dlib looks with dlib .*so does a loss"):
        evaluate(config("evaluate", "metrics=identity"))
    assert not (tmp_path / "out/results.json").exists(), "said before anything is graded"


def test_a_seed_means_one_clip(config, shards, tmp_path):
    clips = []
    for seed in (0, 0, 1):
        generate(config("generate", f"shards={shards}", "span=[0.0,0.2]", "limit=1", f"seed={seed}"))
        *_, sample = read_samples(tmp_path / "out")
        clips.append(read_video(tmp_path / "out" / sample["video"]))
    assert np.array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])


def test_a_lower_precision_changes_little(config, shards, tmp_path):
    clips = []
    for precision in ("float32", "bfloat16"):
        overrides = [f"shards={shards}", "span=[0.0,0.2]", "limit=1", f"precision={precision}"]
        generate(config("generate", *overrides))
        *_, sample = read_samples(tmp_path / "out")
        clips.append(read_video(tmp_path / "out" / sample["video"]).astype(int))
    assert 0 < np.abs(clips[0] - clips[1]).mean() < 10
    with pytest.raises(ValueError, match="precision=half: choose one of float32, float16, bfloat16"):
        generate(config("generate", f"shards={shards}", "precision=half"))


def test_evaluation_grades_against_copies_and_truth(config, shards, tmp_path, capsys):
    generate(config("generate", f"shards={shards}", "span=[0.75,1.0]"))
    with pytest.raises(ValueError, match="a required check failed"):
        evaluate(config("evaluate"))
    results = json.loads((tmp_path / "out/report/results.json").read_text())
    assert results["protocol"]["settings"]["graded frames seen in training"] == "none"
    for key in ("psnr", "psnr.copy_reference", "psnr.copy_nearest", "detection_rate"):
        assert np.isfinite(results[key]), key
    assert results["psnr"] < results["psnr.copy_reference"], "an untrained network draws noise"
    assert results["passed"] is False
    assert results["protocol"]["num_frames"] == 4
    printed = capsys.readouterr().out
    assert {"Copy", "reference"} <= {*printed.split()}
    assert "report.html" in printed


def test_a_perfect_clip_passes_as_such(config, shards, tmp_path):
    """The truth in the place of the generated clip: only the video codec is left to lower its PSNR."""
    generate(config("generate", f"shards={shards}", "span=[0.75,1.0]"))
    (sample,) = read_samples(tmp_path / "out")
    true = ShardClips(shards).pictures(sample["key"], np.array(sample["frames"]))
    truth = ((true + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).numpy()
    write_video(tmp_path / "out" / sample["video"], truth, fps=25, crf=10)
    evaluate(config("evaluate", "metrics.checks=[]"))
    results = json.loads((tmp_path / "out/report/results.json").read_text())
    assert results["psnr"] > 35
    assert results["psnr"] > results["psnr.copy_nearest"] + 8


def test_grading_on_trained_frames_is_said(config, shards, tmp_path, caplog, monkeypatch):
    """Also from another folder, where a relative path to the shards would lead nowhere."""
    generate(config("generate", f"shards={shards}", "span=[0.5,1.0]", "limit=1"))
    monkeypatch.chdir(tmp_path)
    evaluate(config("evaluate", "metrics.checks=[]"))
    assert "graded frames seen in training: 4 of 8" in caplog.text
    results = json.loads((tmp_path / "out/report/results.json").read_text())
    assert results["protocol"]["settings"]["graded frames seen in training"] == "4 of 8"


def test_prepared_clips_keep_their_sound(config, tmp_path):
    """A click in frame 13 is in the second of the last four frames."""
    sound = np.zeros(FRAMES * 640, np.float32)
    sound[round(13.5 * 640) :][:40] = 0.9
    with ShardWriter(tmp_path / "spoken", "train") as writer:
        clip = synthetic_clip("spoken", num_frames=FRAMES, size=64, seed=0)
        writer.write(replace(clip, audio=encode_wav(sound)))
    generate(config("generate", f"shards={tmp_path}/spoken/shards/train-*.tar", "span=[0.75,1.0]"))
    (sample,) = read_samples(tmp_path / "out")
    heard = read_audio(tmp_path / "out" / sample["video"])
    assert abs(np.argmax(np.abs(heard) > 0.4) - 1.5 * 640) < 16
    assert abs(len(heard) - 4 * 640) < 640
    clips = ShardClips(f"{tmp_path}/spoken/shards/train-*.tar")
    assert clips.sound(sample["key"], np.array([1, 2, 4])) is None


def test_a_prepared_clip_is_a_request_with_its_first_frame_as_reference(shards):
    clips = ShardClips(shards)
    (whole, _), (part, _) = (list(clips.clips(span)) for span in ((0.0, 1.0), (0.5, 0.75)))
    assert part.frames.tolist() == [8, 9, 10, 11]
    whole, part = whole.request(), part.request()
    assert torch.equal(part.batch["reference"], whole.truth[:1])
    assert torch.equal(part.truth, whole.truth[8:12])
    assert np.array_equal(part.landmarks, whole.landmarks[8:12])
    assert (part.length, part.fps, part.count) == (4, 25, 4)
    assert part.batch["landmarks"].shape == (1, 4, 68, 2)
    assert part.batch["reference_landmarks"].shape == (1, 68, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"give one of:\n  shards=…  \(prepared clips that move as they moved\)"),
        (["shards=a.tar", "reference=a.jpg", "driving=a.mp4"], "shards: not with reference=… driving=…"),
        (["reference=a.jpg"], "driving: not given. Give one of:"),
        (["shards=nowhere/*.tar"], "no shard matches"),
        (["shards=a.tar", "span=[0.5,0.2]"], "give a share of each clip"),
        (["shards=a.tar", "limit=0"], "limit=0: give a number of clips"),
        (["shards=a.tar", "fps=25"], "fps: not with shards=…"),
        (["shards=a.tar", "size=512"], "size: not with shards=…"),
        (["reference=nowhere.jpg", "driving=nowhere.mp4"], "no such file"),
    ],
)
def test_what_drives_must_be_there(config, overrides, message):
    with pytest.raises(ValueError, match=message):
        generate(config("generate", *overrides))


def test_weights_of_other_landmarks_are_refused(config, weights, shards, tmp_path):
    tensors, facts = load_weights(weights)
    given = {name: facts.pop(name) for name in ("config", "step", "system")}
    other = tmp_path / "mesh.safetensors"
    save_weights(other, tensors, **given, provenance=facts | {"landmark_scheme": "mediapipe478"})
    with pytest.raises(ValueError, match=r"on mediapipe478 landmarks, shards=\S+ hold ibug68"):
        generate(config("generate", f"shards={shards}", f"weights={other}"))


def test_a_span_without_a_face_is_an_error(config, shards, tmp_path):
    with pytest.raises(ValueError, match=r"shows a face within \[0\.99, 1\.0\]"):
        generate(config("generate", f"shards={shards}", "span=[0.99,1.0]"))
    assert not (tmp_path / "out/samples.jsonl").exists()


def test_nothing_to_grade(config, tmp_path):
    with pytest.raises(ValueError, match=r"no samples\.jsonl"):
        evaluate(config("evaluate"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/samples.jsonl").write_text("")
    with pytest.raises(ValueError, match="is empty"):
        evaluate(config("evaluate"))
