"""Temporal segments: which frames stand for a long past, the further back the fewer.

Loopy (arXiv 2409.02634, section 3.3) takes the past of a clip in segments: each holds `per_segment` elements
(the paper's stride s), an element of segment k stands for ratio^k frames (the expand ratio r). With s = 4,
r = 2 and 5 segments, 124 frames become 20. The paper's equation gives all elements of a segment one range and
says "mean" where it computes a middle; read so that the ranges tile the past, element i is

    k = i // s,  start = s (r^k - 1) / (r - 1) + (i % s) r^k,  end = start + r^k,  middle = (start + end) // 2

in frames before the clip: 0 is the one just before it.
"""

from dataclasses import dataclass

import numpy as np

PICKS = ("uniform", "random", "mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporalSegments:
    """How a past of `length` frames is told by `count` of them.

    Attributes:
        per_segment: s.
        ratio: r.
        segments: their number.
        pick: "uniform", the frame in the middle of each range; "random", any frame of it; "mean", the mean of
            all that is known of its frames, which only values can have that were computed beforehand.

    Raises:
        ValueError: a number below 1, or another pick.
    """

    per_segment: int = 4
    ratio: int = 2
    segments: int = 5
    pick: str = "uniform"

    def __post_init__(self) -> None:
        for name in ("per_segment", "ratio", "segments"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} of temporal segments: give 1 or more")
        if self.pick not in PICKS:
            raise ValueError(f"pick={self.pick!r} of temporal segments: give one of {', '.join(PICKS)}")

    @property
    def count(self) -> int:
        """Elements that stand for the past."""
        return self.per_segment * self.segments

    @property
    def length(self) -> int:
        """Frames of the past that they stand for."""
        return int(self.ranges[-1, 1])

    @property
    def ranges(self) -> np.ndarray:
        """int64 [count, 2]: start and end of each element's frames before the clip, the nearest first."""
        sizes = np.repeat(self.ratio ** np.arange(self.segments, dtype=np.int64), self.per_segment)
        ends = np.cumsum(sizes)
        return np.stack([ends - sizes, ends], axis=1)

    def picks(self, rng: np.random.Generator | None = None) -> np.ndarray:
        """int64 [count]: one frame of each range, counted back from the clip, the nearest first.

        Args:
            rng: for `pick="random"` alone.
        """
        starts, ends = self.ranges.T
        if self.pick == "random":
            assert rng is not None
            return rng.integers(starts, ends)
        return (starts + ends) // 2
