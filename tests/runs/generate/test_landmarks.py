"""generate.py landmarks: from videos and pictures to landmark files and drawings, no weights needed."""

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from portraitgen.faces.drawing import draw_landmarks
from portraitgen.faces.landmark_file import load_landmarks
from portraitgen.media.audio import read_audio
from portraitgen.media.decode import probe_video, read_video
from portraitgen.media.encode import write_video
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.generate.landmarks import find_landmarks


def command(*overrides):
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        find_landmarks(compose("generate_landmarks", [*overrides]))


@pytest.fixture
def talk(carphone, tmp_path):
    """Half a second of a real man with a click at 0.2 s, one pixel narrower than the original."""
    sound = np.zeros(8000, np.float32)
    sound[3200:3300] = 0.9
    path = tmp_path / "talk.mp4"
    write_video(path, read_video(carphone)[:12, :, :-2], fps=25, audio=sound)
    return path


def test_a_video_becomes_landmarks_and_a_drawing_with_its_sound(talk, tmp_path):
    command(f"driving={talk}", f"out={tmp_path / 'out'}")
    landmarks = load_landmarks(tmp_path / "out/landmarks/talk.npz")
    assert landmarks.points.shape == (12, 68, 2)
    assert (landmarks.image_size, landmarks.scheme, landmarks.fps) == ((144, 190), "ibug68", 25)
    drawn = read_video(tmp_path / "out/drawings/talk.mp4")
    expected = draw_landmarks(landmarks.points, image_size=(144, 190), canvas_size=(144, 190))
    assert np.abs(drawn - expected.transpose(0, 2, 3, 1).astype(int)).mean() < 3
    heard = read_audio(tmp_path / "out/drawings/talk.mp4")
    assert np.abs(np.argmax(np.abs(heard) > 0.4) - 3200) < 32, "in time to 2 ms"
    assert abs(len(heard) / 16000 - 12 / 25) < 1 / 25


def test_another_rate(talk, tmp_path):
    command(f"driving={talk}", "fps=50", f"out={tmp_path / 'out'}")
    assert len(load_landmarks(tmp_path / "out/landmarks/talk.npz")) == 24
    assert probe_video(tmp_path / "out/drawings/talk.mp4").num_frames == 24


def test_a_picture_becomes_one_frame_and_a_png(talk, tmp_path):
    cv2.imwrite(str(tmp_path / "face.png"), read_video(talk)[0][:, :-1, ::-1])
    command(f"driving={tmp_path / 'face.png'}", f"out={tmp_path / 'out'}")
    assert load_landmarks(tmp_path / "out/landmarks/face.npz").points.shape == (1, 68, 2)
    assert cv2.imread(str(tmp_path / "out/drawings/face.png")).shape == (144, 188, 3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "driving: no value given"),
        (["driving=nowhere.mp4"], "driving=nowhere.mp4: no such file"),
        (["driving=a.mp4", "fps=0"], "fps=0"),
        (["driving=a.mp4", "raw_points=true"], "no such file"),
    ],
)
def test_what_cannot_be_read_is_said(overrides, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        command(*overrides, f"out={tmp_path / 'out'}")


def test_raw_points_need_mediapipe(talk, tmp_path):
    with pytest.raises(ValueError, match="faces=mediapipe"):
        command(f"driving={talk}", "raw_points=true", f"out={tmp_path / 'out'}")
