"""Batches as a loader gives them, and whether they are the same."""

import torch

from portraitgen.data.loader import ResumableLoader


def take(stream: ResumableLoader, count: int) -> list[dict]:
    """The next batches, over epoch borders; copies, so that slabs are given back."""
    batches: list[dict] = []
    while len(batches) < count:
        for batch in stream:
            batches.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in batch.items()})
            if len(batches) == count:
                break
    stream.close()
    return batches


def assert_same(left: list[dict], right: list[dict]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if isinstance(a[name], list):
                assert a[name] == b[name]
            else:
                torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, equal_nan=True)
