"""Driving in 3D with MediaPipe's real meshes; skipped where the extra or its model is absent."""

import json
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from portraitgen.faces.landmark_file import load_landmarks
from portraitgen.faces.mesh_drawing import draw_face_mesh
from portraitgen.faces.motion import read_motion
from portraitgen.faces.reference import read_reference
from portraitgen.faces.transfer import transfer_motion
from portraitgen.media.audio import encode_wav
from portraitgen.media.decode import probe_video, read_video
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.generate.generate import generate
from portraitgen.runs.generate.landmarks import find_landmarks
from portraitgen.runs.progress import progress
from portraitgen.systems.aniportrait.sound_driving import driven_by_sound
from portraitgen.systems.aniportrait.speech_models import load_speech
from portraitgen.training.weights import load_weights, save_weights
from tests.runs.tiny import load_trained, save_tiny

pytest.importorskip("mediapipe")


@pytest.fixture(scope="module")
def model_file(shared):
    return shared / "testdata/models/face_landmarker_v2_with_blendshapes.task"


@pytest.fixture(scope="module")
def backend(model_file):
    from portraitgen.faces.mediapipe import MediaPipeBackend

    return MediaPipeBackend(str(model_file), mesh=True)


@pytest.fixture(scope="module")
def media(shared, tmp_path_factory):
    """The first frame of a real speaker as a photo, face.png."""
    folder = tmp_path_factory.mktemp("media")
    frames = read_video(shared / "testdata/clips/AOC_short.mp4")
    cv2.imwrite(str(folder / "face.png"), frames[0][..., ::-1])
    return folder


@pytest.fixture(scope="module")
def driving(shared, backend):
    return read_motion(shared / "testdata/clips/AOC_short.mp4", backend, fps=Fraction(5)).landmarks


@pytest.mark.parametrize("frame", ["face", "letterbox", "aniportrait"])
def test_a_face_that_drives_itself_stays_where_it_is(media, backend, driving, frame):
    """In 3D, in whatever is shown of the photo: mean error a small share of the distance of the eyes."""
    reference = read_reference(media / "face.png", backend, size=(512, 512), frame=frame)
    moved = transfer_motion(driving, reference.landmarks, smooth_frames=1)
    truth = reference.framing.to_frame(driving.points)[:, :468]
    eyes = np.linalg.norm(truth[0, 33] - truth[0, 263])
    error = np.linalg.norm(moved - truth, axis=-1).mean(axis=1) / eyes
    # The neutral frame is another than the photo: the mouth may differ, the rest is in place.
    assert error.max() < 0.12
    assert np.median(error) < 0.06
    mouth = np.linalg.norm(moved[:, 13] - moved[:, 14], axis=-1)
    assert np.corrcoef(mouth, np.linalg.norm(truth[:, 13] - truth[:, 14], axis=-1))[0, 1] > 0.95


def test_a_picture_of_the_same_face_changes_nothing(media, backend):
    """But for turns, which are a degree or so different when the face is cut out and looked at by itself."""
    reference = read_reference(media / "face.png", backend, size=(256, 256), frame="face")
    own = read_motion(media / "face.png", backend, fps=None).landmarks
    moved = transfer_motion(own, reference.landmarks)
    np.testing.assert_allclose(moved, reference.landmarks.points[:, :468], atol=1.5)


def command(*overrides):
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        generate(compose("generate", ["faces=mediapipe", *overrides]))


def test_landmark_files_hold_what_upstream_draws(media, model_file, backend, tmp_path):
    words = [f"faces.model_file={model_file}", f"driving={media / 'face.png'}", f"out={tmp_path}"]
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        find_landmarks(compose("generate_landmarks", ["faces=mediapipe", "raw_points=true", *words]))
    landmarks = load_landmarks(tmp_path / "landmarks/face.npz")
    drawn = cv2.imread(str(tmp_path / "drawings/face.png"))[..., ::-1]
    height, width = drawn.shape[:2]
    expected = draw_face_mesh(landmarks.mesh[..., :2], image_size=(1, 1), canvas_size=(height, width))
    assert np.array_equal(drawn, expected[0].transpose(1, 2, 0))
    with np.load(tmp_path / "landmarks/face.npz", allow_pickle=False) as file:
        face = backend.detect(cv2.imread(str(media / "face.png"))[..., ::-1].copy())[0]
        np.testing.assert_allclose(file["transforms"][0], face.mesh.pose, atol=1e-3)
        assert np.array_equal(file["blendshapes"][0], face.mesh.blendshapes)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Audio models in 3D as convert.py makes them of the published ones, untrained."""
    folder = tmp_path_factory.mktemp("speech")
    for name, settings in (
        ("audio2mesh", ["model.network.num_points=468", "model.network.coordinates=3"]),
        ("audio2pose", ["model.in_3d=true"]),
    ):
        words = [*settings, "model.landmark_scheme=mediapipe478", "model.frame_rate=30"]
        save_tiny(folder / f"{name}.safetensors", *words, experiment=f"aniportrait/tiny_{name}")
    return folder


def test_speech_in_3d(media, backend, speech, shared, tmp_path):
    """A sound of 2 s at 30 frames a second: a face that says nothing stays itself, its head follows."""
    (tmp_path / "hum.wav").write_bytes(encode_wav(0.1 * np.sin(np.arange(32000) / 9)))
    template = np.zeros((4, 6))
    template[:, 3] = [0, 1, 2, 3]
    np.save(tmp_path / "head.npy", template)
    reference = read_reference(media / "face.png", backend, size=(512, 512), frame="face")

    def spoken(**changes):
        settings = {"audio2mesh": speech / "audio2mesh.safetensors", "audio2pose": None, "shift_s": 0.0}
        settings |= {"head": None, "manner": None, **changes}
        models = load_speech(**settings, backend=backend, load=load_trained, raw=False, progress=progress)
        return driven_by_sound(reference, tmp_path / "hum.wav", models, fps=None, raw=False, seed=0).landmarks

    still = spoken()
    assert still.shape == (60, 468, 2)
    np.testing.assert_allclose(still, np.repeat(reference.landmarks.points[:, :468], 60, axis=0), atol=0.1)
    led = (spoken(head=tmp_path / "head.npy") - still).mean(axis=1)[:, 0]
    np.testing.assert_allclose(led[:7] / led[1], [0, 1, 2, 3, 2, 1, 0], atol=0.1)
    posed = spoken(audio2pose=speech / "audio2pose.safetensors")
    assert np.isfinite(posed).all()
    video = shared / "testdata/clips/RD_Radio10_0_clip_0.mp4"
    assert np.ptp(spoken(head=video).mean(axis=1), axis=0).max() > 1


def test_video_to_video_in_3d_through_the_command(shared, media, model_file, tmp_path):
    weights = save_tiny(tmp_path / "mesh.safetensors")
    tensors, facts = load_weights(weights)
    facts["landmark_scheme"] = "mediapipe478"
    given = {name: facts.pop(name) for name in ("config", "step", "system")}
    save_weights(weights, tensors, **given, provenance=facts)
    video = shared / "testdata/clips/RD_Radio10_0_clip_0.mp4"
    words = [f"weights={weights}", f"faces.model_file={model_file}", f"out={tmp_path / 'out'}"]
    command(*words, f"reference={media / 'face.png'}", f"driving={video}", "fps=5", "inputs.retarget=3d")
    row = json.loads((tmp_path / "out/samples.jsonl").read_text())
    info = probe_video(tmp_path / "out" / row["video"])
    assert info.num_frames == len(row["frames"]) == 10
    assert info.has_audio
