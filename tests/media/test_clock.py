"""Time stamps that cannot be true are mended; true ones are kept to the bit."""

from fractions import Fraction

import numpy as np
import pytest

from portraitgen.media.clock import PictureClock, clock_of_stamps

FRAMES, PERIOD = 75, 40


def clock(stamps: list[int | None], decoded: list[int | None] | None = None) -> PictureClock:
    """Of stamps in ms."""
    return clock_of_stamps(stamps, stamps if decoded is None else decoded, 0.001, 0.04)


def regular(start: int = 0, count: int = FRAMES) -> list[int | None]:
    return [start + PERIOD * number for number in range(count)]


def test_true_stamps_count_from_the_first_picture() -> None:
    found = clock(regular(1480))
    np.testing.assert_allclose(found.times, np.arange(FRAMES) * 0.04)
    assert not found.wrong
    assert not len(found.jumps)
    assert found.rate(Fraction(25)) == 25


def test_reordered_pictures_keep_their_stamps() -> None:
    shown = [0, 160, 80, 40, 120, 320, 240, 200, 280]
    found = clock(shown, regular(-80, len(shown)))
    np.testing.assert_allclose(found.times, np.array(shown) / 1000)
    assert not found.wrong
    assert not len(found.jumps)


@pytest.mark.parametrize("second", [0, 500, 95_443_717], ids=["starts again", "runs back", "jumps ahead"])
def test_a_jump_starts_a_new_stretch_one_picture_later(second: int) -> None:
    found = clock(regular(count=38) + regular(second, FRAMES - 38))
    np.testing.assert_allclose(found.ordered, np.arange(FRAMES) * 0.04, atol=1e-6)
    np.testing.assert_allclose(found.jumps, [38 * 0.04])
    assert not found.wrong
    last = -1.0
    for index, stamp in enumerate(found.stamps.tolist()):  # also where a stamp comes twice
        last = found.time_of(index, stamp, last)
        assert last == pytest.approx(index * 0.04, abs=1e-6)


@pytest.mark.parametrize("stamp", [0, 900_000, 7], ids=["back", "ahead", "small"])
def test_one_wrong_stamp_is_replaced(stamp: int) -> None:
    stamps = regular()
    stamps[40] = stamp
    found = clock(stamps)
    np.testing.assert_allclose(found.times, np.arange(FRAMES) * 0.04, atol=1e-6)
    assert not len(found.jumps)


def test_pauses_up_to_a_second_are_kept() -> None:
    stamps = regular(count=10) + regular(10 * PERIOD + 700, 10)
    found = clock(stamps)
    assert not len(found.jumps)
    assert found.times[10] == pytest.approx(1.1)


def test_no_stamps_at_all_count_pictures() -> None:
    found = clock([None] * 5)
    np.testing.assert_allclose([found.time_of(index, None, 0.0) for index in range(5)], np.arange(5) * 0.04)


def test_stamps_of_decoding_that_are_missing_are_no_jump() -> None:
    """As FFmpeg reads H.264 with B-frames from Matroska."""
    shown = [0, 160, 80, 40, 120, 320, 240, 200, 280]
    found = clock(shown, [None, None, *regular(0, len(shown) - 2)])
    np.testing.assert_allclose(found.times, np.array(shown) / 1000)
    assert not len(found.jumps)
    assert not found.wrong
    late = clock(shown, [*regular(-80, len(shown) - 1), None])
    np.testing.assert_allclose(late.times, np.array(shown) / 1000)


@pytest.mark.parametrize(
    "stamps",
    [[80 * (number // 2) for number in range(FRAMES)], [0] * FRAMES],
    ids=["in pairs", "all of them"],
)
def test_pictures_that_share_a_stamp_are_seen_one_after_the_other(stamps: list[int | None]) -> None:
    found = clock(stamps)
    np.testing.assert_allclose(found.ordered, np.arange(FRAMES) * 0.04, atol=1e-6)
    assert found.rate(Fraction(25)) == 25
    last = -1.0
    for index in range(FRAMES):
        last = found.time_of(index, stamps[index], last)
        assert last == pytest.approx(index * 0.04, abs=1e-6)


def test_a_picture_every_hour_is_no_hour_of_a_still() -> None:
    found = clock([3_600_000 * number for number in range(20)])
    assert found.ordered[-1] < 60
    assert len(found.jumps) >= 18


def test_a_mean_rate_gives_way_to_the_rate_of_the_stamps() -> None:
    """FFmpeg's mean ends with the last picture's stamp, where its length is not stored."""
    assert clock(regular(count=60)).rate(Fraction(60, 59) * 25) == 25
    missing = [stamp for number, stamp in enumerate(regular(count=60)) if number % 20]
    assert clock(missing).rate(Fraction(25)) == 25, "a camera's rate, some pictures are lost"
    assert clock(regular(count=60)).rate(Fraction(29_296_875, 1_171_875)) == 25


def test_a_rate_that_stamps_deny_is_measured() -> None:
    """A webm with jittered stamps states 1000 frames a second."""
    rng = np.random.default_rng(0)
    stamps = [int(stamp + rng.integers(-6, 7)) for stamp in regular(20)]
    found = clock(stamps)
    assert found.rate(Fraction(1000)) == 25
    assert found.rate(Fraction(25)) == 25
    assert clock([100 * number for number in range(50)]).rate(Fraction(1000)) == 10
