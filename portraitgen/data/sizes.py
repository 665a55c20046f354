"""Sizes of pictures as settings give them, and buckets of sizes for pictures of many proportions."""

from collections.abc import Mapping, Sequence

import numpy as np

from portraitgen.data.sample import DataError

Size = tuple[int, int]
"""(height, width)."""


def as_size(setting: str, value: int | Sequence[int] | None, *, multiple_of: int = 8) -> Size | None:
    """(height, width) of a side or a pair; None stays None.

    Raises:
        DataError: naming `data.examples.{setting}`, when it is no size.
    """
    if value is None:
        return None
    sides = [value, value] if isinstance(value, int) else list(value)
    if len(sides) != 2:
        raise DataError(f"data.examples.{setting} must be a side or a pair [height, width], found {sides}")
    if any(side < 16 or side % multiple_of for side in sides):
        multiples = f"multiples of {multiple_of}, " if multiple_of > 1 else ""
        raise DataError(f"data.examples.{setting}={sides}: give {multiples}at least 16")
    return sides[0], sides[1]


def as_buckets(value: Sequence[Sequence[int]] | Mapping[str, float]) -> tuple[Size, ...]:
    """Sizes of a list of pairs, or made of {"side": …, "step": …, "max_aspect": …}, see `make_buckets`.

    Raises:
        DataError: naming `data.examples.buckets`, when they cannot be used.
    """
    if isinstance(value, Mapping):
        unknown = value.keys() - {"side", "step", "max_aspect"}
        if unknown or "side" not in value:
            raise DataError(
                f"data.examples.buckets={dict(value)}: give side, and if you like step and max_aspect"
            )
        return make_buckets(
            int(value["side"]), step=int(value.get("step", 64)), max_aspect=float(value.get("max_aspect", 2))
        )
    sizes = [as_size(f"buckets[{number}]", pair) for number, pair in enumerate(value)]
    if not sizes or len(set(sizes)) < len(sizes):
        raise DataError(f"data.examples.buckets={list(value)}: give one size or more, each once")
    return tuple(size for size in sizes if size is not None)


def make_buckets(side: int, *, step: int = 64, max_aspect: float = 2.0) -> tuple[Size, ...]:
    """Sizes of about the same area: for each width the largest height of no more than side² pixels.

    Args:
        side: of the square among them.
        step: all sides are multiples of it.
        max_aspect: of the longer side to the shorter one.

    Raises:
        DataError: no size is so.
    """
    if step < 8 or step % 8 or side < step or max_aspect < 1:
        raise DataError(
            f"data.examples.buckets: side={side}, step={step}, max_aspect={max_aspect:g}: give a step that is"
            " a multiple of 8, a side of at least a step, and an aspect of 1 or more"
        )
    widths = range(step, int(side * max_aspect) + 1, step)
    sizes = [(side * side // width // step * step, width) for width in widths]
    kept = [
        (height, width)
        for height, width in sizes
        if height and max(height, width) <= max_aspect * min(height, width)
    ]
    if not kept:
        raise DataError(f"data.examples.buckets: no size of side={side}, step={step} has an aspect so small")
    return tuple(kept)


def nearest_bucket(sizes: np.ndarray, buckets: Sequence[Size]) -> np.ndarray:
    """For pictures [N, 2] (height, width) the bucket that cuts off least of them: int64 [N].

    By the ratio of the proportions; of several buckets of one proportion the first.
    """
    aspects = np.log(sizes[:, 1] / sizes[:, 0])
    return np.abs(aspects[:, None] - np.log([width / height for height, width in buckets])).argmin(axis=1)
