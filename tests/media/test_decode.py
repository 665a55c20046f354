"""Every kind of broken file ends in a flag or in one clear VideoError; good ones are read whole, upright."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from portraitgen.media.audio import encode_wav
from portraitgen.media.container import VideoError
from portraitgen.media.decode import VIDEO_SUFFIXES, iter_frames, probe_video, read_video
from portraitgen.media.encode import encode_clip


def remux(data: bytes, *, container: str, options: dict[str, str] | None = None, skip: int = 0) -> bytes:
    """The same packets, less the first `skip`, in another container."""
    target = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(target, "w", format=container, options=options) as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and number >= skip:
                packet.stream = stream
                sink.mux(packet)
    return target.getvalue()


def broken_in_the_middle(data: bytes, length: int) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(length) + data[middle + length :]


@pytest.fixture(scope="module")
def original(carphone: Path) -> bytes:
    return carphone.read_bytes()


@pytest.fixture(scope="module")
def prepared(carphone: Path) -> bytes:
    return encode_clip(read_video(carphone), fps=Fraction(30000, 1001))


def test_probe_and_frames_agree(carphone: Path) -> None:
    info = probe_video(carphone)
    frames = list(iter_frames(carphone))
    assert (info.num_frames, info.width, info.height) == (120, 192, 144)  # pixels of 128:117
    assert info.fps == Fraction(30000, 1001)
    assert info.codec == "h264"
    assert not info.has_audio
    assert info.duration_s == pytest.approx(4.004)
    assert [frame.index for frame in frames] == list(range(120))
    assert frames[30].time_s == pytest.approx(30 * 1001 / 30000, abs=1e-3)
    assert all(frame.image.shape == (144, 192, 3) and frame.image.dtype == np.uint8 for frame in frames)
    assert not any(frame.corrupt for frame in frames)


def test_path_and_bytes_give_the_same_frames(carphone: Path, original: bytes) -> None:
    np.testing.assert_array_equal(read_video(str(carphone)), read_video(original))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"this is no video\n" * 50, "not a readable video or sound"),
        ("cut", "not a readable video"),
    ],
    ids=["empty", "text", "moov lost"],
)
def test_unreadable_file_is_one_message_naming_it(
    tmp_path: Path, original: bytes, content: bytes | str, cause: str
) -> None:
    path = tmp_path / "talk.mp4"
    path.write_bytes(original[: len(original) * 2 // 3] if content == "cut" else content)
    for read in (probe_video, read_video):
        with pytest.raises(VideoError, match=cause) as raised:
            read(path)
        assert str(path) in str(raised.value)
        assert "fetch it again" in str(raised.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"nothing\.mp4: no such file"):
        probe_video(tmp_path / "nothing.mp4")


def test_audio_only_file_has_no_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(encode_wav(np.zeros(1600, np.float32)))
    for read in (probe_video, read_video):
        with pytest.raises(VideoError, match="no video stream"):
            read(path)


def test_stopped_download_yields_what_is_there_and_then_raises(tmp_path: Path, carphone: Path) -> None:
    whole = tmp_path / "whole.mp4"
    with (
        av.open(str(carphone)) as source,
        av.open(str(whole), "w", options={"movflags": "faststart"}) as sink,
    ):
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                sink.mux(packet)
    data = whole.read_bytes()
    frames = []
    with pytest.raises(VideoError, match=r"cut short, \d+ of 120 frames"):
        frames.extend(iter_frames(data[: len(data) // 2], name="download.mp4"))
    assert 20 < len(frames) < 100


@pytest.mark.parametrize("length", [400, 4000, 20000])
def test_zeroed_bytes_flag_frames_up_to_the_next_key_frame(prepared: bytes, length: int) -> None:
    clean = read_video(prepared)
    frames = list(iter_frames(broken_in_the_middle(prepared, length)))
    flagged = [frame.index for frame in frames if frame.corrupt]
    assert 60 < len(frames) <= 120
    assert 0 < len(flagged) <= 24
    # What is not flagged is intact (compared by time, since lost frames shift the count), and gaps are
    # flagged.
    places = [round(frame.time_s * 30000 / 1001) for frame in frames]
    for frame, place in zip(frames, places, strict=True):
        if not frame.corrupt:
            np.testing.assert_array_equal(frame.image, clean[place])
            assert frame.index == 0 or place == places[frame.index - 1] + 1


def test_container_without_a_frame_count_is_counted(original: bytes) -> None:
    matroska = remux(original, container="matroska")
    assert probe_video(matroska).num_frames == 120
    assert len(read_video(matroska)) == 120


def test_a_nut_is_read_as_what_it_was_made_of(tmp_path: Path, original: bytes) -> None:
    """The container was opened, but no folder was searched for such names."""
    path = tmp_path / "talk.nut"
    path.write_bytes(remux(original, container="nut"))
    assert path.suffix in VIDEO_SUFFIXES
    np.testing.assert_array_equal(read_video(path), read_video(original))


def test_lossless_cut_drops_the_undecodable_beginning(carphone: Path) -> None:
    prepared = encode_clip(read_video(carphone), fps=30)
    frames = list(iter_frames(remux(prepared, container="mp4", skip=5)))
    assert len(frames) == 120 - 12
    assert not any(frame.corrupt for frame in frames)


@pytest.mark.parametrize(
    ("matrix", "red", "size"),
    [
        ((0, 1, 0, -1, 0, 0, 48, 0), "top right", (64, 48)),
        ((-1, 0, 0, 0, -1, 0, 64, 48), "bottom right", (48, 64)),
        ((0, -1, 0, 1, 0, 0, 0, 64), "bottom left", (64, 48)),
    ],
    ids=["clockwise", "upside down", "counter-clockwise"],
)
def test_phone_rotation_is_applied(matrix: tuple[int, ...], red: str, size: tuple[int, int]) -> None:
    """The display matrix (ISO/IEC 14496-12) written into the track header; a red corner shows its effect."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:16, :16] = (255, 0, 0)
    data = bytearray(encode_clip([image] * 2, fps=25))
    place = data.index(b"tkhd") + 4 + 4 + 20 + 16
    data[place : place + 36] = struct.pack(">9i", *(value << 16 for value in matrix), 1 << 30)
    turned = bytes(data)
    info = probe_video(turned)
    frame = read_video(turned)[0]
    assert (info.height, info.width) == frame.shape[:2] == size
    corners = {
        "top left": frame[4, 4],
        "top right": frame[4, -5],
        "bottom left": frame[-5, 4],
        "bottom right": frame[-5, -5],
    }
    assert max(corners, key=lambda name: int(corners[name][0])) == red


def test_real_clips_are_read_whole(shared: Path) -> None:
    """One has a frame that its edit list discards, one is MPEG-4, one is full range."""
    for name, count in {
        "RD_Radio10_0_clip_0.mp4": 61,
        "WDA_AlexandriaOcasioCortez_000.mp4": 200,
        "multi_face_hamilton.mp4": 275,
    }.items():
        frames = list(iter_frames(shared / "testdata" / "clips" / name))
        assert len(frames) == count
        assert not any(frame.corrupt for frame in frames)


def test_zeros_that_the_decoder_conceals_are_damage(original: bytes) -> None:
    """CABAC decodes zeroed bytes without an error: pictures are destroyed, and FFmpeg flags none."""
    whole = [frame.image for frame in iter_frames(original)]
    broken = list(iter_frames(broken_in_the_middle(original, 3000)))
    changed = [bool((frame.image != image).any()) for frame, image in zip(broken, whole, strict=True)]
    assert any(changed)
    assert all(frame.corrupt for frame, differs in zip(broken, changed, strict=True) if differs)
