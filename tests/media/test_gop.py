"""Windows decoded from packets are those of the whole clip, whatever the start; damage is never passed on."""

import pickle
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from portraitgen.media.container import VideoError
from portraitgen.media.decode import read_video
from portraitgen.media.encode import encode_clip
from portraitgen.media.gop import GopDecoder, PacketTable, packet_table


@pytest.fixture(scope="module")
def clip(carphone: Path) -> bytes:
    return encode_clip(read_video(carphone), fps=Fraction(30000, 1001))


@pytest.fixture(scope="module")
def table(clip: bytes) -> PacketTable:
    return packet_table(clip)


@pytest.fixture(scope="module")
def planes(clip: bytes, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """All frames by the ordinary way: the container's own decoding, packed by PyAV."""
    path = tmp_path_factory.mktemp("gop") / "clip.mp4"
    path.write_bytes(clip)
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)])


def test_table_describes_the_clip(clip: bytes, table: PacketTable) -> None:
    assert len(table.offsets) == len(table.sizes) == len(table.keyframes) == 120
    assert np.flatnonzero(table.keyframes).tolist() == list(range(0, 120, 12))
    assert (table.width, table.height) == (192, 144)
    assert np.all(table.offsets + table.sizes <= len(clip))
    assert packet_table(memoryview(clip)).extradata == table.extradata


@pytest.mark.parametrize(
    ("start", "count"), [(0, 12), (24, 12), (7, 12), (11, 2), (0, 120), (119, 1), (30, 50)]
)
def test_window_equals_the_whole(
    clip: bytes, table: PacketTable, planes: np.ndarray, start: int, count: int
) -> None:
    window = GopDecoder().decode_yuv420(memoryview(clip), start=start, count=count, table=table)
    assert window.dtype == np.uint8
    np.testing.assert_array_equal(window, planes[start : start + count])


def test_scattered_frames_into_a_slab_without_a_table(clip: bytes, planes: np.ndarray) -> None:
    decoder = GopDecoder()
    slab = np.zeros((2, 5, 216, 192), np.uint8)
    frames = [0, 13, 14, 61, 118]
    for row in slab:
        assert decoder.decode_frames(clip, frames, out=row) is row
    np.testing.assert_array_equal(slab, np.stack([planes[frames]] * 2))


def test_only_the_needed_groups_are_touched(clip: bytes, table: PacketTable, planes: np.ndarray) -> None:
    first, end = int(table.offsets[24]), int(table.offsets[36])
    other_bytes_gone = bytes(first) + clip[first:end] + bytes(len(clip) - end)
    window = GopDecoder().decode_yuv420(other_bytes_gone, start=26, count=10, table=table)
    np.testing.assert_array_equal(window, planes[26:36])


def test_clips_of_other_sizes_share_one_decoder(table: PacketTable, clip: bytes, planes: np.ndarray) -> None:
    decoder = GopDecoder()
    for side in range(32, 32 + 4 * 10, 4):
        small = encode_clip(np.full((3, side, side, 3), side, np.uint8), fps=25)
        assert decoder.decode_yuv420(small, start=0, count=3).shape == (3, side * 3 // 2, side)
    np.testing.assert_array_equal(decoder.decode_yuv420(clip, start=5, count=3, table=table), planes[5:8])


def test_decoder_travels_to_workers(clip: bytes, planes: np.ndarray) -> None:
    decoder = GopDecoder()
    decoder.decode_yuv420(clip, start=0, count=1)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(decoder)).decode_yuv420(clip, start=3, count=2), planes[3:5]
    )


def test_damage_raises_and_the_decoder_recovers(clip: bytes, table: PacketTable, planes: np.ndarray) -> None:
    decoder = GopDecoder()
    begin, size = int(table.offsets[30]), int(table.sizes[30])
    damaged = clip[:begin] + bytes(size) + clip[begin + size :]
    with pytest.raises(VideoError, match=r"face-7.*frame"):
        decoder.decode_yuv420(damaged, start=24, count=12, table=table, name="face-7")
    np.testing.assert_array_equal(decoder.decode_yuv420(clip, start=24, count=12, table=table), planes[24:36])
    with pytest.raises(VideoError, match="damaged"):
        decoder.decode_yuv420(clip[:begin], start=24, count=12, table=table)


def test_clips_that_are_not_prepared_are_refused(carphone: Path, clip: bytes) -> None:
    with pytest.raises(VideoError, match="B-frames"):
        packet_table(carphone.read_bytes(), name="carphone")
    with pytest.raises(VideoError, match="not a readable mp4"):
        packet_table(clip[: len(clip) // 2])
    with pytest.raises(VideoError, match="not a readable mp4"):
        packet_table(b"text")


def test_wrong_requests_are_refused(clip: bytes, table: PacketTable) -> None:
    decoder = GopDecoder()
    for frames in ([], [120], [-1], [3, 3], [5, 4]):
        with pytest.raises(ValueError, match="increasing"):
            decoder.decode_frames(clip, frames, table=table)
    with pytest.raises(ValueError, match="out is"):
        decoder.decode_yuv420(clip, start=0, count=2, table=table, out=np.empty((2, 144, 192), np.uint8))
    with pytest.raises(VideoError):
        decoder.decode_yuv420(clip, start=0, count=2, table=replace(table, offsets=table.offsets + 3))


def test_zeroed_bytes_are_damage(carphone: Path) -> None:
    clip = encode_clip(read_video(carphone)[:24], fps=25)
    table = packet_table(clip)
    begin = int(table.offsets[14]) + 60
    broken = clip[:begin] + bytes(40) + clip[begin + 40 :]
    decoder = GopDecoder()
    decoder.decode_yuv420(broken, start=0, count=12, table=table)
    with pytest.raises(VideoError, match="overwritten with zeros"):
        decoder.decode_yuv420(broken, start=12, count=12, table=table)
