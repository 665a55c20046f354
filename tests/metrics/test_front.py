"""Who is on the front: nobody else is at least equal by all figures and better by one."""

import numpy as np
import pytest

from portraitgen.metrics.front import pareto_front


def test_of_one_figure_the_best_are_on_the_front():
    values = np.array([[1.0], [3.0], [3.0], [np.nan], [2.0]])
    assert pareto_front(values, [True]).tolist() == [False, True, True, False, False]
    assert pareto_front(values, [False]).tolist() == [True, False, False, False, False]


def test_of_two_those_that_no_other_beats_by_both():
    # identity up, copy-paste down
    values = np.array([[0.9, 0.8], [0.7, 0.1], [0.8, 0.8], [0.8, 0.4], [0.7, np.nan], [0.9, 0.8]])
    assert pareto_front(values, [True, False]).tolist() == [True, True, False, True, False, True]


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_its_definition_says(seed):
    values = np.random.default_rng(seed).integers(0, 4, (20, 2)).astype(float)
    gains = values * [1, -1]
    beaten = [any((b >= a).all() and (b > a).any() for b in gains) for a in gains]
    assert pareto_front(values, [True, False]).tolist() == [not each for each in beaten]


def test_without_any_value_nobody_is():
    assert not pareto_front(np.full((2, 2), np.nan), [True, True]).any()
