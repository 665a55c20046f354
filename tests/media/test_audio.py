"""Sound is resampled to mono in time, survives WAV, and windows of frames tile it."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from portraitgen.media.audio import StoredSound, decode_wav, encode_wav, frame_audio_window, read_audio
from portraitgen.media.container import VideoError


def tone(seconds: float, rate: int) -> np.ndarray:
    return (0.4 * np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * 220 / rate)).astype(np.float32)


def test_wav_round_trip_is_within_one_step() -> None:
    samples = np.concatenate([tone(0.5, 16000), [1.0, -1.0, 2.0, -2.0]]).astype(np.float32)
    decoded, rate = decode_wav(encode_wav(samples))
    assert rate == 16000
    assert decoded.dtype == np.float32
    assert np.abs(decoded - samples.clip(-1, 1)).max() <= 1 / 32767


def test_resampling_keeps_time_and_level() -> None:
    heard = read_audio(encode_wav(tone(1.0, 44100), sample_rate=44100))
    assert heard is not None
    assert heard.dtype == np.float32
    assert len(heard) == pytest.approx(16000, abs=32)
    expected = tone(1.0, 16000)
    middle = slice(500, 15000)
    assert np.abs(heard[middle] - expected[middle]).max() < 0.01


def encode(path: Path, codec: str, samples: np.ndarray) -> None:
    """Write samples [channels, N] at 44.1 kHz."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=44100, layout="stereo")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.rate, frame.pts = 44100, 0
        resampler = av.AudioResampler(
            format=stream.codec_context.format.name, frame_size=stream.codec_context.frame_size or 1024
        )
        for block in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))


def test_a_sound_begins_at_one_time_at_every_rate(tmp_path: Path) -> None:
    """The first frame of an MP3 has a handful of samples, too few to be resampled at once."""
    click = np.zeros((2, 44100), np.float32)
    click[:, 22050:24000] = 2 * tone(1.0, 44100)[:1950]
    encode(tmp_path / "click.mp3", "libmp3lame", click)
    onsets = []
    for rate in (16_000, 48_000):
        heard = read_audio(tmp_path / "click.mp3", sample_rate=rate)
        assert heard is not None
        onsets.append(np.argmax(np.abs(heard) > 0.3) / rate)
    assert onsets[0] == pytest.approx(onsets[1], abs=0.001)


def test_silent_video_has_no_audio_and_damage_is_named(carphone: Path) -> None:
    assert read_audio(carphone) is None
    with pytest.raises(VideoError, match=r"noise\.wav: not a readable"):
        read_audio(b"no sound at all", name="noise.wav")


def test_real_speech_has_the_length_of_its_video(shared: Path) -> None:
    heard = read_audio(shared / "testdata" / "clips" / "AOC_short.mp4")
    assert heard is not None
    assert len(heard) / 16000 == pytest.approx(137 * 1001 / 30000, abs=0.1)
    assert 0.01 < np.abs(heard).mean() < 0.5


def test_other_wav_files_are_refused() -> None:
    with pytest.raises(ValueError, match="not a WAV"):
        decode_wav(b"RIFFnothing")
    longer = bytearray(encode_wav(np.zeros(640, np.float32)))
    longer[16:20] = (1 << 24).to_bytes(4, "little")  # the chunk of the format claims more than there is
    with pytest.raises(ValueError, match="not a WAV file"):
        decode_wav(bytes(longer))
    stereo = bytearray(encode_wav(tone(0.1, 16000)))
    stereo[22] = 2
    with pytest.raises(ValueError, match="2 channels"):
        decode_wav(bytes(stereo))


@pytest.mark.parametrize("fps", [25, Fraction(30000, 1001), 23.976])
def test_windows_of_frames_meet(fps: float | Fraction) -> None:
    edges = [frame_audio_window(start, 7, fps=fps) for start in range(0, 700, 7)]
    assert edges[0][0] == 0
    assert all(earlier[1] == later[0] for earlier, later in pairwise(edges))
    assert edges[-1][1] == round(700 / Fraction(fps).limit_denominator(100_000) * 16000)
    assert frame_audio_window(25, 25, fps=25, sample_rate=48000) == (48000, 96000)


def test_stored_sound_is_what_is_read_at_once(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 5000).astype(np.float32)
    data = encode_wav(samples)
    expected = read_audio(data)
    sound = StoredSound.extract(data, tmp_path / "sound", start_s=100 / 16000)
    for begin, end in ((0, 5000), (10, 20), (-200, 50), (-300, -200), (4890, 5100), (6000, 6010), (7, 7)):
        wanted = [expected[each] if 0 <= each < 5000 else 0 for each in range(begin + 100, end + 100)]
        np.testing.assert_array_equal(sound.window(begin, end), np.array(wanted, np.float32))
