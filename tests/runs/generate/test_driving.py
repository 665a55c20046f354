"""Every way to drive a photo, end to end through generate.py with untrained weights."""

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from hydra import compose, initialize_config_dir

from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.landmark_file import load_landmarks, save_landmarks
from portraitgen.faces.landmark_sequence import LandmarkSequence
from portraitgen.faces.motion import Motion, read_motion
from portraitgen.faces.reference import read_reference
from portraitgen.media.audio import read_audio
from portraitgen.media.decode import probe_video, read_video
from portraitgen.media.encode import write_video
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.evaluate.evaluate import evaluate
from portraitgen.runs.generate.generate import generate
from portraitgen.runs.generate.landmarks import find_landmarks
from portraitgen.systems.aniportrait.face_driving import driven_by_face
from portraitgen.training.weights import load_weights, save_weights
from tests.runs.tiny import save_tiny

FRAMES = 6
CLICK_S = 0.1


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("run") / "last.safetensors")


@pytest.fixture(scope="module")
def media(carphone, tmp_path_factory):
    """A photo (face.png) and a video with a click (talk.mp4) of the real man."""
    folder = tmp_path_factory.mktemp("media")
    frames = read_video(carphone)[: 2 * FRAMES : 2]
    cv2.imwrite(str(folder / "face.png"), frames[0][..., ::-1])
    click = np.zeros(48000, np.float32)
    click[round(CLICK_S * 48000) :][:300] = 0.9
    write_video(folder / "talk.mp4", frames, fps=25, audio=click, sample_rate=48000)
    return folder


@pytest.fixture
def run(weights, media, tmp_path):
    """Runs the command with `reference` and the given words; returns the folder and the row of its clip."""

    def run(*overrides):
        register_configs()
        given = [f"weights={weights}", f"reference={media / 'face.png'}", f"out={tmp_path / 'out'}"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            generate(compose("generate", [*given, *overrides]))
        *_, line = (tmp_path / "out/samples.jsonl").read_text().splitlines()
        return tmp_path / "out", json.loads(line)

    return run


def test_video_to_video_with_its_sound(run, media):
    out, row = run(f"driving={media / 'talk.mp4'}")
    assert (row["key"], row["mode"]) == ("face-talk", "video")
    assert row["frames"] == list(range(FRAMES))
    assert row["frames_filled_in"] == 0
    for name in ("video", "panel"):
        assert probe_video(out / row[name]).num_frames == FRAMES
        heard = read_audio(out / row[name], sample_rate=48000)
        assert abs(np.argmax(np.abs(heard) > 0.4) / 48000 - CLICK_S) < 0.001, "in time to a millisecond"
        assert abs(len(heard) / 48000 - FRAMES / 25) < 1 / 25
    assert read_video(out / row["video"]).shape == (FRAMES, 64, 64, 3)
    assert cv2.imread(str(out / row["sheet"])) is not None


def test_sound_that_begins_before_the_picture_stays_in_time(run, media, tmp_path):
    """A video whose first picture comes 0.08 s after its sound."""
    late = tmp_path / "late.mp4"
    with av.open(str(media / "talk.mp4")) as source, av.open(str(late), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "video":
                packet.pts += round(0.08 / packet.time_base)
                packet.dts += round(0.08 / packet.time_base)
            packet.stream = streams[packet.stream.index]
            target.mux(packet)
    out, row = run(f"driving={late}")
    heard = read_audio(out / row["video"], sample_rate=48000)
    assert abs(np.argmax(np.abs(heard) > 0.4) / 48000 - (CLICK_S - 0.08)) < 0.001


def test_a_silent_video(run, media, tmp_path):
    write_video(tmp_path / "mute.mp4", read_video(media / "talk.mp4"), fps=25)
    out, row = run(f"driving={tmp_path / 'mute.mp4'}")
    assert not probe_video(out / row["video"]).has_audio


@pytest.mark.parametrize(("fps", "length"), [(50, 12), (12.5, 3)])
def test_any_rate(run, media, fps, length):
    out, row = run(f"driving={media / 'talk.mp4'}", f"fps={fps}")
    info = probe_video(out / row["video"])
    assert (info.num_frames, float(info.fps)) == (length, fps)
    assert abs(len(read_audio(out / row["video"])) / 16000 - FRAMES / 25) < 1 / 25


def test_landmarks_to_video(run, media, tmp_path):
    """A landmark file gives the video's frames bit for bit, given the same name for the noise."""
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [f"driving={media / 'talk.mp4'}", f"out={tmp_path / 'found'}"]
        find_landmarks(compose("generate_landmarks", words))
    out, row = run(f"driving={media / 'talk.mp4'}")
    from_video = read_video(out / row["video"])
    out, row = run(f"driving={tmp_path / 'found/landmarks/talk.npz'}")
    assert np.array_equal(read_video(out / row["video"]), from_video)
    assert not probe_video(out / row["video"]).has_audio


def test_image_to_image(run, media, tmp_path):
    cv2.imwrite(str(tmp_path / "other.jpg"), read_video(media / "talk.mp4")[-1][..., ::-1])
    out, row = run(f"driving={tmp_path / 'other.jpg'}")
    assert (row["image"], row["mode"], row["fps"]) == ("generated/face-other.png", "picture", None)
    assert cv2.imread(str(out / row["image"])).shape == (64, 64, 3)
    assert "panel" not in row


@pytest.mark.parametrize(("size", "frame"), [((64, 96), "face"), ((96, 64), "letterbox"), ((68, 64), "crop")])
def test_any_proportion(run, media, size, frame):
    out, row = run(
        f"driving={media / 'talk.mp4'}", f"size=[{size[0]},{size[1]}]", f"inputs.frame={frame}", "fps=8"
    )
    assert read_video(out / row["video"]).shape[1:] == (*size, 3)


def test_a_seed_means_one_clip_whatever_the_machine_does(run, media):
    clips = []
    for seed in (0, 0, 1):
        out, row = run(f"driving={media / 'talk.mp4'}", "fps=5", f"seed={seed}", "deterministic=true")
        clips.append(read_video(out / row["video"]))
    torch.use_deterministic_algorithms(False)
    assert np.array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])


def test_a_clip_without_a_truth_is_graded_by_what_it_was_given(run, media, caplog, capsys):
    """By landmarks, sound and photo; what needs the truth says so, and no check fails."""
    out, row = run(f"driving={media / 'talk.mp4'}")
    assert row["shown"] == ["reference", "landmarks", "generated"]
    told = load_landmarks(out / row["landmarks"])
    assert told.points.shape == (FRAMES, 68, 2)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        extra = "+metrics.graders.identity={_target_:portraitgen.metrics.graders.identity.IdentityGrader}"
        evaluate(compose("evaluate", [f"generated={out}", extra]))
    results = json.loads((out / "report/results.json").read_text())
    assert results["detection_rate"] >= 0, "the landmarks say where a face should be"
    assert "psnr" not in results or results["psnr"] is None
    assert "no true frames are given" in (out / "report/results.md").read_text()
    assert "no figure for" in capsys.readouterr().out, "of checks against copies of the photo"
    assert results["protocol"]["crop"] == "none"

    # The photo's face in the place of the generated one is about where it was told to be, and it is known.
    write_video(out / row["video"], _framed(media, told.points), fps=25)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        evaluate(compose("evaluate", [f"generated={out}", extra]))
    results = json.loads((out / "report/results.json").read_text())
    assert results["landmark_error"] < 0.2
    assert results["identity_dlib"] > 0.8


def _framed(media, points):
    """The photo's face, framed as generated clips show it, for each of the driving frames."""
    backend = DlibBackend()
    reference = read_reference(media / "face.png", backend, size=(64, 64), frame="face")
    frame = ((reference.picture + 1) * 127.5).round().byte().movedim(0, -1).numpy()
    return np.repeat(frame[None], len(points), axis=0)


def test_samples_are_called_by_their_number(run, media):
    out, row = run(f"driving={media / 'face.png'}", "seed=8")
    alone = cv2.imread(str(out / row["image"]))
    register_configs()
    words = [f"weights={row['weights']}", f"reference={media / 'face.png'}", f"driving={media / 'face.png'}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        generate(compose("generate", [*words, "seed=7", "num_samples=2", f"out={out}"]))
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [(row["key"], row["seed"]) for row in rows] == [
        *(("face-face", 8), ("face-face-1", 7), ("face-face-2", 8)),
    ]
    assert np.array_equal(cv2.imread(str(out / rows[2]["image"])), alone)


def test_a_face_that_is_away_is_filled_in_and_counted(run, media, tmp_path):
    frames = read_video(media / "talk.mp4").copy()
    frames[[0, 3]] = 90
    write_video(tmp_path / "holes.mp4", frames, fps=25)
    _, row = run(f"driving={tmp_path / 'holes.mp4'}")
    assert row["frames_filled_in"] == 2
    assert len(row["frames"]) == FRAMES


def test_the_driving_face_begins_where_the_photos_face_is(media):
    backend = DlibBackend()
    reference = read_reference(media / "face.png", backend, size=(64, 64), frame="face")
    motion = read_motion(media / "talk.mp4", backend, fps=None)
    clip = driven_by_face(reference, media / "talk.mp4", motion, retarget="auto", raw=False)
    assert clip.reference.shape == (3, 64, 64)
    assert np.linalg.norm(clip.landmarks[0] - reference.landmarks.points[0], axis=-1).mean() < 1
    assert np.abs(np.diff(clip.landmarks, axis=0)).max() > 0.1


@pytest.mark.parametrize("frame", ["face", "crop", "letterbox", "aniportrait"])
def test_landmarks_of_the_photo_itself_are_drawn_where_they_are(media, frame):
    """Whatever is shown of the photo, at whatever scale the landmarks are."""
    backend = DlibBackend()
    reference = read_reference(media / "face.png", backend, size=(96, 64), frame=frame)
    own = read_motion(media / "face.png", backend, fps=None)
    doubled = LandmarkSequence(
        points=own.landmarks.points * 2,
        scheme="ibug68",
        image_size=(288, 384),
        fps=Fraction(25),
        found=np.ones(1, bool),
    )
    for landmarks in (own.landmarks, doubled):
        moved = Motion(landmarks, None)
        clip = driven_by_face(reference, Path("own.npz"), moved, retarget="none", raw=False)
        np.testing.assert_allclose(clip.landmarks, reference.landmarks.points, atol=1e-3)
    wide = Motion(replace(doubled, image_size=(100, 384)), None)
    with pytest.raises(ValueError, match="one proportion"):
        driven_by_face(reference, Path("own.npz"), wide, retarget="none", raw=False)


def test_a_photo_one_pixel_wider_than_high_is_shown_whole(media, tmp_path):
    """The official code cuts nothing at all out of it."""
    backend = DlibBackend()
    own = read_motion(media / "face.png", backend, fps=None).landmarks
    left, top = own.points[0].mean(axis=0).astype(int) - 45
    face = cv2.imread(str(media / "face.png"))[top : top + 90, left : left + 91]
    cv2.imwrite(str(tmp_path / "near.png"), face)
    reference = read_reference(tmp_path / "near.png", backend, size=(64, 64), frame="aniportrait")
    assert reference.photo_size == (90, 91)
    assert (reference.framing.width, reference.framing.height) == (90, 90)
    assert float(reference.picture.std()) > 0.1


def test_weights_of_other_landmarks_are_refused(run, weights, media, tmp_path):
    tensors, facts = load_weights(weights)
    facts["landmark_scheme"] = "mediapipe478"
    given = {name: facts.pop(name) for name in ("config", "step", "system")}
    save_weights(tmp_path / "mesh.safetensors", tensors, **given, provenance=facts)
    with pytest.raises(ValueError, match="trained on mediapipe478 landmarks, faces=dlib finds ibug68"):
        run(f"driving={media / 'talk.mp4'}", f"weights={tmp_path / 'mesh.safetensors'}")


@pytest.mark.slow
def test_neither_drawings_nor_pictures_of_a_whole_clip_are_held(media, tmp_path):
    """The real command with a VAE of Stable Diffusion's layout: a frame has 49 kB of drawing and as much of
    picture, 1 kB of latents, of which a step has ten copies, and 3 kB of pose maps.
    """
    AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
    ).save_pretrained(tmp_path / "vae")
    weights = save_tiny(
        tmp_path / "vae.safetensors",
        *("model.network.denoising_unet.in_channels=4", "model.network.denoising_unet.out_channels=4"),
        *("~model.codec.factor", "model.codec._target_=portraitgen.diffusion.latents.VAECodec"),
        "+model.codec.vae._target_=diffusers.AutoencoderKL.from_pretrained",
        f"+model.codec.vae.pretrained_model_name_or_path={tmp_path / 'vae'}",
    )
    own = read_motion(media / "face.png", DlibBackend(), fps=None).landmarks
    lengths, peaks_kb = (40, 840), []
    for length in lengths:
        sway = 5 * np.sin(np.arange(length) / 9).astype(np.float32)[:, None, None]
        moved = replace(own, points=own.points + sway, found=np.ones(length, bool))
        save_landmarks(tmp_path / "long.npz", moved)
        words = ["generate.py", f"weights={weights}", f"reference={media / 'face.png'}", "size=64"]
        words += [f"driving={tmp_path / 'long.npz'}", f"out={tmp_path / f'out{length}'}"]
        words += [f"paths.models={tmp_path}"]
        program = (
            f"import runpy, sys; from tests.peak_memory import peak_memory; sys.argv = {words}; "
            "runpy.run_path('generate.py', run_name='__main__'); "
            "print(peak_memory() // 1024)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=CONF.parent, capture_output=True, text=True, check=True
        )
        peaks_kb.append(int(done.stdout.split()[-1]))
        assert probe_video(tmp_path / f"out{length}/generated/face-long.mp4").num_frames == length
    growth = (peaks_kb[1] - peaks_kb[0]) / (lengths[1] - lengths[0])
    assert growth < 40, f"kB a frame, at {peaks_kb} kB"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["driving={media}/grey.mp4"], r"grey\.mp4: no face found in any of its 3 frames"),
        (["driving={media}/talk.mp4", "reference={media}/grey.png"], r"grey\.png: no face found"),
        (["driving={media}/face.png", "size=66"], "multiples of 4"),
        (["driving={media}/face.png", "size=[64,64,64]"], r"give one number or \[height,width\]"),
        (["driving={media}/face.png", "inputs.frame=square"], "frame=square: choose one of face, crop"),
        (["driving={media}/face.png", "inputs.retarget=3d"], "faces=mediapipe"),
        (["driving={media}/grey.mp4", "inputs.retarget=3d"], "retarget=3d needs MediaPipe's mesh"),
        (["driving={media}/grey.mp4", "inputs.raw_points=true"], "raw_points=true needs MediaPipe's mesh"),
        (
            ["driving={media}/talk.mp4", "inputs.manner=3"],
            "manner: not with reference=… driving=…",
        ),
        (["driving={media}/face.png", "inputs.retarget=4d"], "retarget=4d: choose one of auto"),
        (["driving={media}/none.npz"], "no such file"),
        (["driving={media}/other.npz"], "find both with one face backend"),
        (["driving={media}/talk.mp4", "weights=null"], "give weights="),
        (
            ["driving={media}/talk.mp4", "prompt=smile"],
            "prompt: aniportrait does not take it; it takes",
        ),
        (["driving={media}/talk.mp4", "inputs.fram=face"], r"did you mean 'inputs\.frame'"),
        (["driving={media}/talk.mp4", "reference=[{media}/face.png,{media}/face.png]"], "at most 1 people"),
    ],
)
def test_what_cannot_be_done_is_said(run, media, overrides, message):
    write_video(media / "grey.mp4", np.full((3, 64, 64, 3), 99, np.uint8), fps=25)
    cv2.imwrite(str(media / "grey.png"), np.full((64, 64, 3), 99, np.uint8))
    other = LandmarkSequence(
        points=np.zeros((2, 106, 2), np.float32),
        scheme="insightface106",
        image_size=(64, 64),
        fps=Fraction(25),
        found=np.ones(2, bool),
    )
    save_landmarks(media / "other.npz", other)
    assert len(load_landmarks(media / "other.npz")) == 2
    with pytest.raises(ValueError, match=message):
        run(*(override.format(media=media) for override in overrides))
