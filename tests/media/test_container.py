"""Files that are no media are told apart, and none leads a reader to another file."""

from pathlib import Path

import av
import numpy as np
import pytest

from portraitgen.media.audio import read_audio
from portraitgen.media.container import VideoError, open_media
from portraitgen.media.decode import MAX_FRAME_PIXELS, iter_frames, probe_video
from portraitgen.media.encode import encode_clip
from portraitgen.media.gop import packet_table

NAMES = (
    *("talk: part 1.mp4", "concat:a|b.mp4", "http:x.mp4", "pipe:0.mp4", "subfile,,start,0,end,9,,:a.mp4"),
    *("-i.mp4", "a%03d.mp4", "[1].mp4", "a?b=c#d.mp4", "Bildschirmfoto\u202f1.mp4"),
)


@pytest.fixture(scope="module")
def clip() -> bytes:
    return encode_clip([np.full((32, 32, 3), 20 * number, np.uint8) for number in range(6)], fps=25)


@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_taken_for_an_address(tmp_path: Path, monkeypatch, clip: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(clip)
    monkeypatch.chdir(tmp_path)
    assert len(list(iter_frames(Path(name)))) == 6
    assert read_audio(Path(name)) is None


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile other.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.ts\n#EXT-X-ENDLIST\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>other.mp4</BaseURL></MPD>',
    ],
    ids=["concat", "HLS", "DASH"],
)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".mpd"])
def test_lists_of_other_files_are_not_followed(tmp_path: Path, clip: bytes, text: str, suffix: str) -> None:
    (tmp_path / "other.mp4").write_bytes(clip)
    (tmp_path / "other.ts").write_bytes(clip)
    theirs = tmp_path / f"theirs{suffix}"
    theirs.write_text(text)
    for read in (probe_video, read_audio):
        with pytest.raises(VideoError, match=rf"theirs{suffix}: .*a list of other files"):
            read(theirs)


def test_a_clip_of_a_shard_leads_nowhere(tmp_path: Path, monkeypatch, clip: bytes) -> None:
    (tmp_path / "other.mp4").write_bytes(clip)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match="not a readable mp4"):
        packet_table(b"ffconcat version 1.0\nfile other.mp4\n")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page: fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "`git lfs pull` fetches the file"),
        (b"PK\x03\x04" + bytes(60), "an archive: unpack it"),
        (b"\xff\xd8\xff\xe0" + bytes(60), "a picture"),
        (bytes(1000), "nothing but zeros"),
        (b'{"error": "not found"}', "but text; fetch it again or remove it"),
        (b"\x01\x02\x03\x04" * 40, "not a readable video or sound (Invalid data found"),
    ],
)
def test_what_is_no_video_is_told(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "talk.mp4"
    path.write_bytes(data)
    for read in (probe_video, read_audio):
        with pytest.raises(VideoError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: not a readable video or sound")
        assert what in str(error.value)
        assert "Errno" not in str(error.value)


def test_pictures_without_a_decoder_are_named(clip: bytes) -> None:
    with pytest.raises(VideoError, match=r"a\.mp4: FFmpeg has no decoder for its pictures; re-encode it"):
        probe_video(clip.replace(b"avc1", b"zzzz"), name="a.mp4")


def test_frames_of_a_huge_size_are_refused_before_they_are_decoded(monkeypatch, clip: bytes) -> None:
    assert MAX_FRAME_PIXELS >= 7680 * 4320, "what cameras film"
    monkeypatch.setattr("portraitgen.media.decode.MAX_FRAME_PIXELS", 1000)
    with pytest.raises(VideoError, match=r"32x32 are more than .* pixels; scale it down"):
        probe_video(clip)


def test_a_huge_flat_picture_is_refused_before_ffmpeg_decodes_it(tmp_path: Path) -> None:
    """To open a file FFmpeg decodes one: of 16000 x 16000 flat ones, in 1.6 MB, that took twelve seconds."""
    path = tmp_path / "flat.mov"
    side = 8100
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = side, side, "gray"
        frame = av.VideoFrame.from_ndarray(np.zeros((side, side), np.uint8), format="gray")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with open_media(path, "flat.mov") as opened:
        assert opened.streams.video[0].codec_context.width == 0, "it was not decoded"
    with pytest.raises(VideoError, match=r"flat\.mov: its pictures have more than 64 million pixels"):
        probe_video(path)
