"""Sample orders: every sample once a pass, another order each pass, mixed across shards."""

from collections import Counter

import numpy as np
import pytest

from portraitgen.data.order import BucketOrder, BucketSpread, EvenSpread, SampleOrder

BUCKETS = np.random.default_rng(3).choice([0, 2, 3], 45, p=[0.6, 0.3, 0.1])
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


def bucket_batches(count, *, batch_size, seed=1):
    order = BucketOrder(SHARDS, BUCKETS, seed=seed, batch_size=batch_size)
    return [
        (order.bucket(number * batch_size), [order(number * batch_size + slot) for slot in range(batch_size)])
        for number in range(count)
    ]


@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_a_batch_is_of_one_bucket_and_no_sample_comes_more_often_than_another(batch_size):
    batches = bucket_batches(2 * len(SHARDS), batch_size=batch_size)
    for bucket, samples in batches:
        assert (BUCKETS[samples] == bucket).all()
    for first in (batches[: len(SHARDS)], batches[len(SHARDS) :]):
        seen = Counter(sample for _, samples in first for sample in samples)
        assert seen == dict.fromkeys(range(len(SHARDS)), batch_size), "nothing is dropped, nothing favoured"
    for bucket in (0, 2, 3):
        members = np.flatnonzero(bucket == BUCKETS).tolist()
        stream = [sample for of, samples in batches if of == bucket for sample in samples]
        passes = [stream[i : i + len(members)] for i in range(0, len(stream), len(members))]
        assert all(sorted(one) == members for one in passes), "each pass over a bucket has all of it, once"


def test_the_bucket_of_a_batch_depends_on_the_seed_and_its_number_alone():
    buckets = [bucket for bucket, _ in bucket_batches(60, batch_size=2)]
    assert buckets == [bucket for bucket, _ in bucket_batches(60, batch_size=8)]
    assert buckets != [bucket for bucket, _ in bucket_batches(60, batch_size=2, seed=2)]
    order = BucketOrder(SHARDS, BUCKETS, seed=1, batch_size=2)
    positions = np.random.default_rng(0).integers(0, 500, 200).tolist()
    fresh = [BucketOrder(SHARDS, BUCKETS, seed=1, batch_size=2) for _ in positions]
    assert [order(p) for p in positions] == [one(p) for one, p in zip(fresh, positions, strict=True)]
    assert [order.bucket(p) for p in positions] == [BUCKETS[order(p)] for p in positions]


def test_what_stands_in_for_a_sample_is_of_its_bucket():
    order = BucketOrder(SHARDS, BUCKETS, seed=1, batch_size=4)
    for position in range(100):
        following = [order(position, ahead=ahead) for ahead in range(3)]
        assert len(set(following)) >= 2, "a pass may end between them"
        assert {BUCKETS[sample] for sample in following} == {order.bucket(position)}


def test_a_fixed_list_has_all_buckets_one_after_the_other():
    spread = BucketSpread(BUCKETS, 20)
    groups = spread.groups()
    assert [position for group in groups for position in group] == list(range(20))
    assert sorted(spread(p) for p in range(20)) == sorted(EvenSpread(45, 20)(p) for p in range(20))
    for group in groups:
        assert {spread.bucket(p) for p in group} == {BUCKETS[spread(p)] for p in group}
        assert len({spread.bucket(p) for p in group}) == 1
        assert spread(group[-1], ahead=1) == spread(group[0])
    assert len(groups) == 3
