"""The sign-flip test, its interval and Holm's correction: right where the answer is known."""

from itertools import product

import numpy as np
import pytest

from portraitgen.metrics.paired import LEVEL, holm, paired_difference


def test_the_p_value_is_the_share_of_all_sign_flips():
    differences = np.random.default_rng(0).normal(1, 2, 9)
    flips = np.array(list(product((-1, 1), repeat=9)))
    share = (np.abs((flips * differences).sum(axis=1)) >= abs(differences.sum()) - 1e-12).mean()
    found = paired_difference(differences + 5, np.full(9, 5.0))
    assert found.p_value == pytest.approx(share)
    assert found.mean == pytest.approx(differences.mean())


@pytest.mark.parametrize("count", [6, 9, 14, 30])
def test_the_interval_is_the_test_turned_round(count):
    """A shift within the interval is not refused, one beyond it is."""
    values = np.random.default_rng(count).normal(3, 1, count)
    low, high = paired_difference(values, np.zeros(count)).interval
    step = 0.02 * (high - low)
    for inside in (low + step, high - step):
        assert paired_difference(values, np.full(count, inside)).p_value > LEVEL
    for outside in (low - step, high + step):
        assert paired_difference(values, np.full(count, outside)).p_value <= LEVEL


def test_few_videos_have_no_interval_and_missing_ones_do_not_count():
    assert np.isnan(paired_difference(np.arange(5.0) + 9, np.arange(5.0)).interval).all()
    ours, theirs = np.array([1.0, np.nan, 5.0]), np.array([0.5, 7.0, np.nan])
    found = paired_difference(ours, theirs)
    assert (found.mean, found.num_units) == (0.5, 1)
    nothing = paired_difference(ours[1:2], theirs[1:2])
    assert nothing.num_units == 0
    assert np.isnan([nothing.mean, *nothing.interval, nothing.p_value]).all()


def test_equal_videos_are_no_evidence():
    assert paired_difference(np.ones(50), np.ones(50)).p_value == 1


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03, float("nan")]) == [True, False, False, False]
    assert holm([0.01, 0.04, 0.02]) == [True, True, True]
    assert holm([0.03, 0.03]) == [False, False]
    assert holm([]) == []
