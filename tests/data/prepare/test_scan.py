import contextlib
import io
import random

import av
import numpy as np
import pytest

from portraitgen.data.prepare.scan import scan_video
from portraitgen.data.prepare.sources import SourceError, find_sources
from portraitgen.media.decode import VideoError


class Nobody:
    """Finds no face."""

    def detect(self, image, *, embed=False):
        return []


def scan(path):
    (source,) = find_sources(str(path))
    return scan_video(source, Nobody(), fps=None, file=io.BytesIO())


def encode(path, codec, *, size=(64, 96), count=24):
    noise = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for image in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def test_scan_of_a_sound_video(tmp_path):
    encode(tmp_path / "a.mkv", "mpeg4")
    found = scan(tmp_path / "a.mkv")
    assert (found.info.width, found.info.height, found.fps) == (96, 64, 25)
    assert list(found.faces) == [[]] * 24
    assert not found.damaged.any()


def test_picture_that_changes_its_size(tmp_path):
    # Pieces of transport streams can be joined as they are.
    data = encode(tmp_path / "a.ts", "mpeg2video") + encode(tmp_path / "b.ts", "mpeg2video", size=(96, 128))
    (tmp_path / "joined.ts").write_bytes(data)
    with pytest.raises(SourceError, match=r"joined\.ts: its picture changes size on the way; split it there"):
        scan(tmp_path / "joined.ts")


@pytest.mark.parametrize(("suffix", "codec"), [("avi", "mpeg4"), ("mp4", "libx264"), ("mkv", "libx264")])
def test_damage_of_any_kind_is_blamed_on_the_file(tmp_path, suffix, codec):
    whole = encode(tmp_path / f"whole.{suffix}", codec)
    dice = random.Random(0)
    path = tmp_path / f"damaged.{suffix}"
    for _ in range(25):
        data = bytearray(whole)
        for _ in range(40):
            # Half of the damage goes where the names and sizes are.
            data[dice.randrange(dice.choice((400, len(data))))] = dice.randrange(256)
        path.write_bytes(data[: dice.randrange(200, 2 * len(data))])
        with contextlib.suppress(SourceError, VideoError):
            found = scan(path)
            assert len(found.faces) == len(found.damaged) > 0
