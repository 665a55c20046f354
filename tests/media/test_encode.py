"""What is written is bit-exact, constant-rate, closed-GOP, tagged; nothing half-written is ever left."""

import io
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from portraitgen.media.audio import read_audio
from portraitgen.media.decode import probe_video, read_video
from portraitgen.media.encode import VideoWriter, encode_clip, write_video
from portraitgen.media.gop import packet_table

RATE = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def frames(carphone: Path) -> np.ndarray:
    return read_video(carphone)[:40]


def test_same_frames_same_bytes(frames: np.ndarray, tmp_path: Path) -> None:
    assert encode_clip(frames, fps=RATE) == encode_clip(iter(frames), fps=RATE)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames, fps=RATE, audio=np.zeros(9000, np.float32))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_stream_is_constant_rate_closed_gop_and_tagged(frames: np.ndarray) -> None:
    data = encode_clip(frames, fps=RATE)
    info = probe_video(data)
    assert (info.num_frames, info.fps, info.codec) == (40, RATE, "h264")
    assert np.flatnonzero(packet_table(data).keyframes).tolist() == [0, 12, 24, 36]
    with av.open(io.BytesIO(data)) as container:
        assert "creation_time" not in {**container.metadata, **container.streams.video[0].metadata}
        decoded = list(container.decode(video=0))
    assert len({later.pts - earlier.pts for earlier, later in pairwise(decoded)}) == 1
    assert all(frame.pict_type != av.video.frame.PictureType.B for frame in decoded)
    tags = {
        (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) for frame in decoded
    }
    assert tags == {(5, 1, 5, 6)}, "bt470bg matrix, limited range, bt470bg primaries, smpte170m transfer"


def test_scene_cuts_do_not_break_the_groups() -> None:
    generator = np.random.default_rng(0)
    pictures = [
        generator.integers(0, 256, (1, 1, 3), np.uint8) * np.ones((64, 64, 1), np.uint8) for _ in range(30)
    ]
    assert np.flatnonzero(packet_table(encode_clip(pictures, fps=25)).keyframes).tolist() == [0, 12, 24]


def test_picture_and_colour_survive(frames: np.ndarray) -> None:
    decoded = read_video(encode_clip(frames, fps=RATE, crf=10)).astype(np.float64)
    assert 10 * np.log10(255**2 / np.mean((decoded - frames) ** 2)) > 38
    for colour in ((200, 30, 40), (20, 180, 60), (30, 60, 220), (128, 128, 128), (0, 0, 0), (255, 255, 255)):
        flat = np.full((2, 32, 32, 3), colour, np.uint8)
        assert np.abs(read_video(encode_clip(flat, fps=25)).astype(int) - flat).max() <= 4


def test_sound_is_in_time_and_cut_at_the_end_of_the_video(frames: np.ndarray, tmp_path: Path) -> None:
    tone = (0.5 * np.sin(np.arange(16000 * 5) * 2 * np.pi * 440 / 16000)).astype(np.float32)
    write_video(tmp_path / "new" / "talk.mp4", frames, fps=RATE, audio=tone)
    assert probe_video(tmp_path / "new" / "talk.mp4").has_audio
    heard = read_audio(tmp_path / "new" / "talk.mp4")
    assert heard is not None
    length = round(40 / RATE * 16000)
    assert length <= len(heard) <= length + 2048
    middle = slice(2000, length - 2000)
    assert np.corrcoef(heard[middle], tone[middle])[0, 1] > 0.999


def test_failure_leaves_the_old_file_and_nothing_else(frames: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "talk.mp4"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="frame must be uint8"):
        write_video(path, [frames[0], frames[1], frames[2][:-2]], fps=25)
    with (
        pytest.raises(ValueError, match="at least one frame"),
        VideoWriter(path, fps=25, width=176, height=144),
    ):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["talk.mp4"]
    assert path.read_bytes() == b"old"
    write_video(path, frames[:3], fps=25)
    assert probe_video(path).num_frames == 3


def test_wrong_frames_are_refused(frames: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even sides"):
        encode_clip(frames[:, :143], fps=25)
    with pytest.raises(ValueError, match="at least one frame"):
        encode_clip([], fps=25)
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "x.mp4", [], fps=25)
    with pytest.raises(ValueError, match="uint8"):
        encode_clip(frames.astype(np.float32), fps=25)
