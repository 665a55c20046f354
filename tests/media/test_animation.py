"""Videos in other formats hold the same pictures."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from portraitgen.media.animation import write_frames, write_gif, write_webm
from portraitgen.media.audio import read_audio
from portraitgen.media.decode import probe_video, read_video
from portraitgen.media.encode import write_video

FPS = Fraction(30)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Eight grey frames that become lighter, with a tone."""
    frames = [np.full((32, 48, 3), 20 + 25 * number, np.uint8) for number in range(8)]
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)
    write_video(tmp_path / "a.mp4", frames, fps=FPS, crf=10, audio=tone)
    return tmp_path / "a.mp4"


def brightness(images: object) -> np.ndarray:
    return np.array([np.asarray(image).mean() for image in images])  # type: ignore[attr-defined]


def test_a_gif_has_the_frames_and_the_time_of_the_video(video: Path) -> None:
    write_gif(video.with_suffix(".gif"), video)
    with Image.open(video.with_suffix(".gif")) as gif:
        frames = [(frame.convert("RGB"), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
        assert gif.info["loop"] == 0
    assert [duration for _, duration in frames] == [30, 40, 30, 30, 40, 30, 30, 40]  # 8 / 30 s = 0.27 s
    assert np.abs(brightness(image for image, _ in frames) - brightness(read_video(video))).max() < 2


def test_a_webm_has_the_frames_and_the_sound(video: Path) -> None:
    path = video.with_suffix(".webm")
    write_webm(path, video)
    info = probe_video(path)
    assert (info.width, info.height, info.codec, info.has_audio) == (48, 32, "vp9", True)
    assert np.abs(brightness(read_video(path)) - brightness(read_video(video))).max() < 3
    assert np.abs(read_audio(path)).max() > 0.2
    assert not list(path.parent.glob(".*"))


def test_frames_are_png_files_in_order(video: Path) -> None:
    write_frames(video.with_suffix(""), video)
    files = sorted(video.with_suffix("").iterdir())
    assert [file.name for file in files] == [f"{number:06d}.png" for number in range(8)]
    np.testing.assert_array_equal(np.asarray(Image.open(files[3])), read_video(video)[3])
