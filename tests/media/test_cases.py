"""Files as phones, cameras and strangers make them give what a player shows and plays."""

from pathlib import Path

import numpy as np
import pytest

from portraitgen.media.audio import read_audio
from portraitgen.media.decode import iter_frames, probe_video, read_video
from portraitgen.media.photo import read_photo


@pytest.fixture
def cases(shared: Path) -> Path:
    return shared / "testdata" / "cases"


def frame_number(image: np.ndarray) -> int:
    """The number drawn along the lower edge of 256x256 pictures: nine squares of 20, the lowest bit first."""
    squares = image[246, 18 : 18 + 9 * 20 : 20].mean(-1) > 128
    return sum(1 << bit for bit, white in enumerate(squares) if white)


def onsets(sound: np.ndarray, *, rate: int = 16000) -> list[float]:
    """Times at which clicks begin."""
    loud = np.flatnonzero(np.abs(sound) > 0.3 * np.abs(sound).max())
    starts = loud[np.diff(loud, prepend=-rate) > rate // 2]
    return (starts / rate).tolist()


def test_sound_stays_in_step_behind_a_gap(cases: Path) -> None:
    sound = read_audio(cases / "audio_gap.mp4")
    assert sound is not None
    assert onsets(sound) == pytest.approx([1.0, 2.0], abs=0.005)
    assert np.abs(sound[round(1.25 * 16000) : round(1.55 * 16000)]).max() < 1e-3


def test_a_clock_that_begins_late_is_no_silence(cases: Path) -> None:
    sound = read_audio(cases / "off2.ts")
    assert sound is not None
    assert len(sound) / 16000 == pytest.approx(1.024, abs=0.02)
    assert np.abs(sound[:1600]).max() > 0.01


def test_sound_whose_format_changes_is_read_whole(cases: Path) -> None:
    sound = read_audio(cases / "audio_format_changes.ts")
    assert sound is not None
    assert len(sound) / 16000 == pytest.approx(1.2, abs=0.05)
    assert onsets(sound) == pytest.approx([1.0], abs=0.03)


def test_stereo_is_as_loud_as_mono(cases: Path) -> None:
    sound = read_audio(cases / "loud_stereo.m4a")
    assert sound is not None
    amplitude = np.sqrt(2 * np.mean(sound[1600:14400] ** 2))
    assert amplitude == pytest.approx(0.89, abs=0.005)
    assert np.abs(sound).max() < 1, "nothing is clipped"


def test_h264_with_b_frames_in_avi_is_whole_and_in_order(cases: Path) -> None:
    frames = list(iter_frames(cases / "h264_bframes.avi"))
    assert not any(frame.corrupt for frame in frames)
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(25) * 0.04)
    assert [frame_number(frame.image) for frame in frames] == list(range(25))


def test_pixels_become_square(cases: Path) -> None:
    info = probe_video(cases / "sar43_as_hdv.mp4")
    assert (info.height, info.width) == (512, 512)
    assert read_video(cases / "sar43_as_hdv.mp4").shape[1:] == (512, 512, 3)
    stored = next(iter_frames(cases / "sar43_as_hdv.mp4", square_pixels=False))
    assert stored.image.shape == (512, 384, 3)


def test_a_mirroring_matrix_mirrors(cases: Path) -> None:
    assert frame_number(read_video(cases / "mirrored_matrix.mp4")[5]) == 5


def test_hlg_becomes_sdr(cases: Path) -> None:
    skin = next(iter_frames(cases / "hlg.mp4")).image[20:40, 430:455].reshape(-1, 3)
    np.testing.assert_allclose(np.median(skin, axis=0), (230, 190, 150), atol=3)


def test_hidden_colours_of_a_transparent_photo_are_not_seen(cases: Path) -> None:
    image = read_photo(cases / "cutout.png").astype(int)
    magenta = (image[..., 0] > 200) & (image[..., 1] < 60) & (image[..., 2] > 200)
    assert not magenta.any()


def test_sixteen_bit_grey_keeps_its_contrast(cases: Path) -> None:
    image = read_photo(cases / "grey16.png")
    assert image.dtype == np.uint8
    assert 60 < image.mean() < 130
    assert image.std() > 40
