"""Sample orders: every sample once a pass, another order each pass, mixed across shards."""

import numpy as np

from portraitgen.data.order import EvenSpread, SampleOrder

SHARDS = np.repeat(np.arange(10), [3, 5, 1, 8, 2, 2, 9, 4, 4, 7])


def passes(order, count):
    return [[order(p) for p in range(i * len(SHARDS), (i + 1) * len(SHARDS))] for i in range(count)]


def test_each_pass_has_every_sample_once_in_another_order():
    first, second, third = passes(SampleOrder(SHARDS, seed=1), 3)
    assert sorted(first) == sorted(second) == sorted(third) == list(range(len(SHARDS)))
    assert first != second != third
    assert passes(SampleOrder(SHARDS, seed=2), 1)[0] != first


def test_order_does_not_depend_on_what_was_asked_before():
    order = SampleOrder(SHARDS, seed=1)
    positions = np.random.default_rng(0).integers(0, 6 * len(SHARDS), 200).tolist()
    assert [order(p) for p in positions] == [SampleOrder(SHARDS, seed=1)(p) for p in positions]


def test_only_a_block_of_shards_is_read_at_a_time():
    (samples,) = passes(SampleOrder(SHARDS, seed=3, block_shards=2), 1)
    shards = SHARDS[samples]
    blocks = np.split(
        shards, np.flatnonzero([len(set(shards[:i]) & set(shards[i:])) == 0 for i in range(45)])[1:]
    )
    assert len(blocks) >= 5
    assert all(len(set(block)) <= 2 for block in blocks)
    assert any(np.any(np.diff(block) < 0) and np.any(np.diff(block) > 0) for block in blocks)


def test_even_spread_covers_the_samples_in_order():
    assert [EvenSpread(10, 4)(p) for p in range(4)] == [0, 2, 5, 7]
    assert [EvenSpread(3, 7)(p) for p in range(7)] == [0, 1, 2, 0, 1, 2, 0]
