import contextlib
import io
import random
from fractions import Fraction

import av
import numpy as np
import pytest

from portraitgen.data.prepare.scan import scan_video
from portraitgen.data.prepare.sources import SourceError, find_sources
from portraitgen.faces.types import Face
from portraitgen.media.container import VideoError


class Nobody:
    """Finds no face."""

    def detect(self, image, *, embed=False):
        return []


class Somebody:
    """Finds one in every picture, and says how many it saw."""

    def __init__(self):
        self.pictures = 0

    def detect(self, image, *, embed=False):
        self.pictures += 1
        return [
            Face(np.zeros(4, np.float32), 1.0, np.zeros((68, 2), np.float32), np.zeros((5, 2), np.float32))
        ]


def scan(path, backend=None, fps=None):
    (source,) = find_sources(str(path))
    return scan_video(source, backend or Nobody(), fps=fps, file=io.BytesIO())


def encode(path, codec, *, size=(64, 96), count=24, rate=25):
    noise = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
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


def test_a_still_is_no_more_than_a_second_of_video(tmp_path):
    """Of a picture that is shown for two seconds, the second one has no face; the first is shown for one."""
    encode(tmp_path / "slow.mkv", "mpeg4", count=4, rate=Fraction(1, 2))
    backend = Somebody()
    found = scan(tmp_path / "slow.mkv", backend, Fraction(25))
    shown = [len(faces) for faces in found.faces]
    assert backend.pictures == 4
    assert shown == [1] * 50 + [0] * 25 + [1] * 25 + [0] * 25 + [1] * 25 + [0] * 50


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
