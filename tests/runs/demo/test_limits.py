"""What is too large is refused by what its header says, with the limit in the message."""

import numpy as np
import pytest
from PIL import Image

from portraitgen.media.encode import write_video
from portraitgen.runs.demo.address import check_address, is_of_this_machine
from portraitgen.runs.demo.limits import Limits


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    sound = np.sin(np.arange(2 * 44100) / 20).astype(np.float32)
    write_video(path, [np.zeros((32, 64, 3), np.uint8)] * 50, fps=25, audio=sound, sample_rate=44100)
    return path


def test_photos(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (300, 200)).save(path)
    Limits(photo_megapixels=0.06).check_photo(path)
    with pytest.raises(
        ValueError, match=r"a\.png: 300x200 pixels, and this page takes photos of up to 0\.05"
    ):
        Limits(photo_megapixels=0.05).check_photo(path)
    path.write_bytes(b"x" * 2_000_000)
    with pytest.raises(ValueError, match=r"2 megabytes, and this page takes files of up to 1"):
        Limits(upload_mb=1).check_photo(path)
    with pytest.raises(ValueError, match="not a readable picture"):
        Limits().check_photo(path)


def test_clips_and_sounds(clip):
    assert Limits(seconds=2.1).check_video(clip).num_frames == 50
    assert 31_000 < len(Limits(seconds=2.1).check_sound(clip)) < 33_000
    for check in (Limits(seconds=1.5).check_video, Limits(seconds=1.5).check_sound):
        with pytest.raises(
            ValueError, match=r"clip\.mp4: more than the 1\.5 seconds that this page takes; cut it"
        ):
            check(clip)
    with pytest.raises(ValueError, match="64x32 pixels, and this page takes videos of up to 48 a side"):
        Limits(video_side=48).check_video(clip)


def test_what_is_asked_for():
    limits = Limits(size=512, frames=100, seconds=10)
    limits.check_wanted({"size": [512, 384], "length": 100, "fps": 10})
    for values, said in (
        ({"size": [512, 520]}, "size: 520 pixels"),
        ({"size": 1000}, "size: 1000 pixels"),
        ({"length": 101}, "length: 101 frames"),
        ({"fps": 25}, "fps: 25, and this page draws up to 10"),
    ):
        with pytest.raises(ValueError, match=said):
            limits.check_wanted(values)
    with pytest.raises(ValueError, match=r"limits\.seconds=0: give more than 0"):
        Limits(seconds=0)


def test_others_need_a_password():
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert is_of_this_machine(host)
        check_address(host, None, share=False)
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org", ""):
        with pytest.raises(ValueError, match="give it a password"):
            check_address(host, None, share=False)
        check_address(host, "secret", share=False)
    with pytest.raises(ValueError, match="share=true: everybody with the link"):
        check_address("127.0.0.1", None, share=True)
    with pytest.raises(ValueError, match="password: it is empty"):
        check_address("0.0.0.0", " ", share=False)
