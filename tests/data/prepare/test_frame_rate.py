from fractions import Fraction

import numpy as np
import pytest

from portraitgen.data.prepare.frame_rate import resample_frames
from portraitgen.media.decode import Frame


def frames_at(times, corrupt=()):
    """Frames whose picture is their number."""
    return [
        Frame(number, time, np.full((1, 1, 3), number, np.uint8), number in corrupt)
        for number, time in enumerate(times)
    ]


def resampled(times, source_fps, fps):
    frames = list(resample_frames(frames_at(times), source_fps=Fraction(source_fps), fps=Fraction(fps)))
    assert [frame.index for frame in frames] == list(range(len(frames)))
    return [int(frame.image[0, 0, 0]) for frame in frames]


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001)])
def test_same_rate_passes_every_frame_through(fps):
    # Matroska rounds times to milliseconds; a stream may begin late.
    times = [5.2 + round(float(number / fps), 3) for number in range(200)]
    assert resampled(times, fps, fps) == list(range(200))


@pytest.mark.parametrize(("source_fps", "fps"), [(30, 25), (60, 25), (24, 25), (12, 25), (25, 30)])
def test_every_frame_is_the_nearest_in_time(source_fps, fps):
    count = 3 * source_fps
    chosen = resampled([number / source_fps for number in range(count)], source_fps, fps)
    assert len(chosen) == 3 * fps
    for index, number in enumerate(chosen):
        nearest = min(abs(other / source_fps - index / fps) for other in range(count))
        assert abs(number / source_fps - index / fps) == pytest.approx(nearest, abs=1e-9)


def test_variable_rate_keeps_time():
    # Ten frames a second, then a picture that stands for a second.
    times = [number / 10 for number in range(10)] + [1.9, 2.0]
    assert resampled(times, 10, 10) == [*range(10), 9, 9, 9, 9, 10, 10, 10, 10, 10, 10, 11]


def test_single_frame_is_kept():
    assert resampled([0.0], 30, 1) == [0]


def test_no_frames():
    assert resampled([], 25, 25) == []


def test_damage_stays_with_its_picture():
    frames = frames_at([0.0, 0.5, 1.0], corrupt={1})
    result = list(resample_frames(frames, source_fps=Fraction(2), fps=Fraction(5)))
    assert [int(frame.image[0, 0, 0]) for frame in result] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert [frame.corrupt for frame in result] == [False, False, True, True, False, False, False, False]
