"""A file that was cut short says so itself, whatever FFmpeg makes of it; a whole one is never blamed."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from portraitgen.media.audio import encode_wav, read_audio
from portraitgen.media.container import VideoError
from portraitgen.media.decode import iter_frames
from portraitgen.media.stated_size import missing_bytes

SOUNDS = {
    "wav": "pcm_s16le",
    "w64": "pcm_s16le",
    "aiff": "pcm_s16be",
    "caf": "pcm_s16le",
    "mka": "aac",
    "ogg": "libopus",
    "wma": "wmav2",
    "mp3": "libmp3lame",
    "flac": "flac",
}
VIDEOS = {
    "mkv": "libx264",
    "webm": "libvpx",
    "mxf": "mpeg2video",
    "mp4": "mpeg4",
    "avi": "mjpeg",
    "wmv": "wmv2",
    "flv": "flv",
    "gif": "gif",
    "vob": "mpeg2video",
    "mpg": "mpeg1video",
    "mov": "mpeg4",
}


def sound(suffix: str) -> bytes:
    """Two seconds of noise, which no codec makes small."""
    target = io.BytesIO()
    formats = {"mka": "matroska", "wma": "asf"}
    with av.open(target, "w", format=formats.get(suffix, suffix)) as container:
        stream = container.add_stream(SOUNDS[suffix], rate=48_000, layout="mono")
        stream.bit_rate = 96_000
        noise = np.random.default_rng(0).normal(0, 0.1, (1, 96_000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
        frame.rate, frame.pts = 48_000, 0
        stream.codec_context.open()
        resampler = av.AudioResampler(
            format=stream.codec_context.format.name, frame_size=stream.codec_context.frame_size or 1024
        )
        for block in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return target.getvalue()


def video(path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 96, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(VIDEOS[path.suffix[1:]], rate=25)
        stream.height, stream.width = noise.shape[1:3]
        stream.pix_fmt = {"mxf": "yuv422p", "avi": "yuvj420p", "gif": "rgb8"}.get(path.suffix[1:], "yuv420p")
        for image in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("suffix", SOUNDS)
def test_half_a_sound_is_no_sound(suffix: str) -> None:
    """FFmpeg takes the end of a WAV file, and of most others, for the end of the sound."""
    data = sound(suffix)
    assert missing_bytes(data) is None
    whole = read_audio(data)
    assert whole is not None
    assert len(whole) == pytest.approx(32_000, abs=3000)
    for share in (0.5, 0.75):
        with pytest.raises(VideoError, match=r"half: (cut short, \d|its audio is damaged)"):
            read_audio(data[: round(share * len(data))], name="half")


@pytest.mark.parametrize("suffix", VIDEOS)
def test_half_a_video_says_so(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"whole.{suffix}"
    data = video(path)
    assert missing_bytes(path) is None
    assert len(list(iter_frames(path))) == 30
    with pytest.raises(VideoError, match=r"half: (cut short, \d|not a readable|nothing in it can be read)"):
        list(iter_frames(data[: len(data) // 2], name="half"))


def test_writers_that_know_no_size_claim_none() -> None:
    wav = bytearray(encode_wav(np.zeros(16_000, np.float32)))
    for unknown in (0, 0x7FFFFFFF, 0xFFFFFFFF):
        wav[4:8] = wav[40:44] = unknown.to_bytes(4, "little")
        assert missing_bytes(bytes(wav)) is None
    target = io.BytesIO()
    with av.open(target, "w", format="matroska", options={"live": "1"}) as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.ones((1, 16_000), np.int16), format="s16", layout="mono")
        frame.rate = 16_000
        container.mux(stream.encode(frame))
    assert missing_bytes(target.getvalue()) is None
    assert missing_bytes(target.getvalue()[:9000]) is None


@pytest.mark.parametrize("length", range(0, 60, 3))
@pytest.mark.parametrize("suffix", ["wav", "w64", "caf", "mka", "ogg", "wma"])
def test_no_part_of_a_header_is_too_short(suffix: str, length: int) -> None:
    missing_bytes(sound(suffix)[:length])
