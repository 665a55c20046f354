import dataclasses
from fractions import Fraction

import pytest

from tests.data.prepare.small_settings import small_settings

SETTINGS = small_settings(fps=25.0, videos_per_shard=2, photos_per_shard=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 65}, "size=65: give a multiple of 8"),
        ({"size": 0}, "size=0"),
        ({"size": [480, 720, 3]}, r"size=\[480, 720, 3\]: give the side of a square, or \[height,width\]"),
        ({"size": [480, 721]}, r"size=\[480, 721\]: give multiples of 8"),
        ({"size": "480x720"}, "size=480x720: give the side of a square, or"),
        ({"size": [480.0, 720]}, r"size=\[480\.0, 720\]: give the side"),
        ({"size": None}, "size=None: give the side"),
        ({"photo_size": 100}, "photo_size=100"),
        ({"fps": 0.0}, r"fps=0\.0: give 1 to 240"),
        ({"margin": -0.1}, r"margin=-0\.1"),
        ({"crf": 60}, "crf=60"),
        ({"face_size": 200}, "face_size=200: give a multiple of 112"),
        ({"embed_every": -1}, "embed_every=-1"),
        ({"min_frames": 0}, "min_frames=0"),
        ({"max_frames": 3}, "max_frames=3 is below min_frames=4"),
        ({"videos_per_shard": 0}, "videos_per_shard=0"),
    ],
)
def test_unusable_values_name_their_key(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **changes)


def test_a_side_or_height_and_width():
    assert dataclasses.replace(SETTINGS, size=96).frame_size == (96, 96)
    wide = dataclasses.replace(SETTINGS, size=(480, 720))
    assert (wide.size, wide.frame_size) == ([480, 720], (480, 720))


@pytest.mark.parametrize(("fps", "exact"), [(None, None), (25.0, Fraction(25)), (29.97, Fraction(2997, 100))])
def test_rate_is_exact(fps, exact):
    assert dataclasses.replace(SETTINGS, fps=fps).exact_fps == exact
