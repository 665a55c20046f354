"""Videos and photos of kinds that the shared cases lack, made here: each is read as a player shows it."""

import io
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from portraitgen.media.audio import read_audio
from portraitgen.media.decode import is_zeroed, iter_frames, probe_video, read_video
from portraitgen.media.encode import encode_clip, write_video
from portraitgen.media.hdr import sdr_from_hdr
from portraitgen.media.photo import PhotoError, _opened, read_photo
from portraitgen.media.sound import sound_of


def moving_bar(frame: int, *, height: int = 64) -> np.ndarray:
    """A white bar on black, 8 pixels further each frame."""
    image = np.zeros((height, 128, 3), np.uint8)
    image[:, 8 * frame : 8 * frame + 16] = 255
    return image


def combing(image: np.ndarray) -> float:
    """How much lines differ from their neighbours, less how much from those after next."""
    grey = image.mean(-1)
    return float(np.abs(np.diff(grey, axis=0)).mean() - np.abs(grey[2:] - grey[:-2]).mean())


def test_interlaced_frames_are_made_whole(tmp_path: Path) -> None:
    """Each stored frame holds the even lines of one moment and the odd ones of the next."""
    woven = []
    for frame in range(0, 12, 2):
        image = moving_bar(frame)
        image[1::2] = moving_bar(frame + 1)[1::2]
        woven.append(image)
    path = tmp_path / "interlaced.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 128, "yuv420p"
        stream.options = {"crf": "1", "flags": "+ildct+ilme", "x264-params": "tff=1"}
        for image in woven:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        stored = list(container.decode(video=0))
        assert all(frame.interlaced_frame for frame in stored)
        combed = max(combing(frame.to_ndarray(format="rgb24")) for frame in stored)
    frames = list(iter_frames(path))
    assert [frame.index for frame in frames] == list(range(6))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(6) / 25)
    assert max(combing(frame.image) for frame in frames) < 0.25 * combed


def test_zeros_between_nal_units_of_a_byte_stream_are_no_damage() -> None:
    nal = b"\x00\x00\x00\x01\x65" + bytes(range(1, 200))
    padded = nal + bytes(40) + nal + bytes(12)
    assert not is_zeroed(padded, "h264", annex_b=True)
    assert is_zeroed(padded, "h264"), "between units with length prefixes there are none"
    overwritten = nal[:60] + bytes(40) + nal[100:] + nal
    assert is_zeroed(overwritten, "h264", annex_b=True)


def test_dropped_frames_of_avi_repeat_the_one_before(tmp_path: Path) -> None:
    """An empty chunk stands for a picture that did not change; it is no damage, and takes its time."""
    path = tmp_path / "dropped.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 128, "yuv420p"
        packets = [
            packet
            for number in range(6)
            for packet in stream.encode(av.VideoFrame.from_ndarray(moving_bar(number), format="rgb24"))
        ] + [*stream.encode(None)]
        for number, packet in enumerate(packets):
            # The muxer fills the slots between stamps with empty chunks.
            packet.pts = packet.dts = number + (3 if number >= 3 else 0)
            container.mux(packet)
    frames = list(iter_frames(path))
    assert not any(frame.corrupt for frame in frames)
    np.testing.assert_allclose([frame.time_s for frame in frames], np.array([0, 1, 2, 6, 7, 8]) / 25)


@pytest.mark.parametrize(("transfer", "white"), [(18, 0.75), (16, 0.5807)], ids=["HLG", "PQ"])
def test_diffuse_white_of_hdr_is_white(transfer: int, white: float) -> None:
    """75 % of HLG's signal, and 203 cd/m² of PQ's (58 %): ITU-R BT.2408."""
    image = np.full((2, 2, 3), round(white * 65535), np.uint16)
    assert (sdr_from_hdr(image, transfer) >= 248).all()
    darker = sdr_from_hdr(image // 2, transfer)
    assert (darker < 160).all()


def test_the_start_of_stereo_sound_and_its_channels_are_kept(tmp_path: Path) -> None:
    seconds = np.arange(48_000) / 48_000
    left = 0.5 * np.sin(2 * np.pi * 300 * seconds)
    both = np.stack([left, np.zeros_like(left)]).astype(np.float32)
    path = tmp_path / "stereo.mp4"
    write_video(path, [moving_bar(0)] * 25, fps=25, audio=both, sample_rate=48_000)
    heard = sound_of(path, 0.0, Fraction(1))
    assert heard is not None
    assert heard.shape == (2, 48_000)
    assert np.abs(heard[0]).max() == pytest.approx(0.5, abs=0.05)
    assert np.abs(heard[1]).max() < 0.02
    mono = read_audio(path)
    assert mono is not None
    assert np.abs(mono[1000:-1000]).max() == pytest.approx(0.25, abs=0.03)


def test_untagged_hd_is_of_bt709() -> None:
    """Players take pictures of 720 lines and more that state no matrix for BT.709's."""
    red = np.zeros((720, 1280, 3), np.uint8)
    red[..., 0] = 200
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 720, 1280, "yuv420p"
        stream.options = {"crf": "4", "preset": "ultrafast"}
        frame = av.VideoFrame.from_ndarray(red, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709"
        )
        frame.colorspace = 2
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    seen = read_video(target.getvalue())[0].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(seen, (200, 0, 0), atol=4)


def test_a_rate_that_cannot_be_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "jittered.mkv"
    rng = np.random.default_rng(0)
    with (
        av.open(io.BytesIO(encode_clip([moving_bar(number % 14) for number in range(50)], fps=25))) as source,
        av.open(str(path), "w") as sink,
    ):
        stream = sink.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                packet.stream = stream
                packet.time_base = Fraction(1, 1000)
                packet.pts = packet.dts = 40 * number + int(rng.integers(-6, 7)) + 20
                sink.mux(packet)
    assert probe_video(path).fps == 25
    assert len(read_video(path)) == 50


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov", "flv", "ts"])
def test_reordered_pictures_come_in_order_from_every_container(tmp_path: Path, suffix: str) -> None:
    """Matroska stores no stamps of decoding: the first three frames used to be lost."""
    path = tmp_path / f"b.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 128, "yuv420p"
        stream.options = {"bf": "3", "crf": "10"}
        for number in range(14):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moving_bar(number), format="rgb24")))
        container.mux(stream.encode(None))
    frames = list(iter_frames(path))
    assert not any(frame.jumped or frame.corrupt for frame in frames)
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(14) / 25, atol=1e-6)
    assert [int(frame.image[0].mean(-1).argmax()) // 8 for frame in frames] == list(range(14))
    assert probe_video(path).fps == 25


def test_ticks_of_a_nanosecond_make_no_rate_of_a_thousand_million(tmp_path: Path) -> None:
    path = tmp_path / "fine.mp4"
    with (
        av.open(io.BytesIO(encode_clip([moving_bar(number) for number in range(14)], fps=25))) as source,
        av.open(str(path), "w", options={"video_track_timescale": "1000000000"}) as sink,
    ):
        stream = sink.add_stream_from_template(source.streams.video[0])
        stream.time_base = Fraction(1, 1_000_000_000)
        for number, packet in enumerate(each for each in source.demux(video=0) if each.size):
            packet.stream, packet.time_base = stream, Fraction(1, 1_000_000_000)
            packet.pts = packet.dts = 40_000_000 * number
            sink.mux(packet)
    assert probe_video(path).fps == 25
    np.testing.assert_allclose([frame.time_s for frame in iter_frames(path)], np.arange(14) / 25)


def test_photos_are_turned_and_brought_to_srgb(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), (200, 30, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    image.save(tmp_path / "turned.jpg", exif=exif, quality=98)
    assert read_photo(tmp_path / "turned.jpg").shape == (40, 20, 3)

    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    in_lab = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    in_lab.save(tmp_path / "lab.tif", icc_profile=lab.tobytes())
    np.testing.assert_allclose(read_photo(tmp_path / "lab.tif")[0, 0], (200, 30, 30), atol=3)


def test_heic_of_phones_is_read(tmp_path: Path) -> None:
    photo = np.zeros((64, 96, 3), np.uint8)
    photo[:, :48] = (180, 90, 40)
    pillow_heif.from_pillow(Image.fromarray(photo)).save(tmp_path / "phone.HEIC", quality=95)
    seen = read_photo(tmp_path / "phone.HEIC").astype(int)
    assert seen.shape == photo.shape
    assert np.abs(seen - photo).mean() < 3


@pytest.mark.parametrize("peak", [1.0, 255.0, 65535.0])
def test_float_pictures_have_their_contrast(tmp_path: Path, peak: float) -> None:
    ramp = np.tile(np.linspace(0, peak, 64, dtype=np.float32), (8, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.tif")
    seen = read_photo(tmp_path / "ramp.tif")
    np.testing.assert_allclose(seen[0, [0, 32, 63], 0], (0, 130, 255), atol=2)


def test_a_header_that_claims_too_many_pixels_is_one_line(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "huge.png")
    data = bytearray((tmp_path / "huge.png").read_bytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(data)
    with pytest.raises(PhotoError, match=r"huge\.png: 100000x100000 are more than 500 million pixels"):
        read_photo(tmp_path / "huge.png")


def test_readers_at_once_leave_the_limit_of_others_as_it_was(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    limit = Image.MAX_IMAGE_PIXELS
    first, second = _opened(tmp_path / "a.png"), _opened(tmp_path / "a.png")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert Image.MAX_IMAGE_PIXELS is None, "the second still reads"
    second.__exit__(None, None, None)
    assert limit == Image.MAX_IMAGE_PIXELS
