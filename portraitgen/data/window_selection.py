"""Which clips have a window: by their runs of valid frames, and by what features are of."""

from collections.abc import Callable, Sequence

import numpy as np

from portraitgen.data.clips import ClipWindows
from portraitgen.data.selection import Candidates


def need_windows(candidates: Candidates, windows: ClipWindows) -> None:
    """Leave out the clips without a window. DataError if none is left."""
    longest = np.concatenate([windows.longest_runs(index) for index in candidates.catalog.indexes])
    low, high = windows.span
    lead = f" after {windows.lead} more" if windows.lead else ""
    candidates.need(
        "a window",
        longest >= windows.reach,
        f"no sample has {windows.reach} valid frames in a row{lead} (clip_frames {windows.clip_frames},"
        f" stride {windows.stride}) within {low:.0%} to {high:.0%} of the clip: of"
        f" {{count}} sample(s) the longest run has {longest[candidates.left].max()}; lower"
        f" data.examples.clip_frames or stride, widen the span, or prepare longer clips",
    )


def need_starts(
    candidates: Candidates, windows: ClipWindows, restrictions: Sequence[Callable[[int, int], np.ndarray]]
) -> None:
    """Leave out the clips none of whose windows begins where features allow it. DataError if none is left.

    Args:
        restrictions: (shard, row) -> bool [T], frames at which windows may begin.
    """
    if not restrictions:
        return
    catalog = candidates.catalog
    found = candidates.left.copy()
    for number, (shard, row) in enumerate(zip(*(each.tolist() for each in catalog.places()), strict=True)):
        if found[number]:
            index = catalog.indexes[shard]
            starts = np.logical_and.reduce([allowed(shard, row) for allowed in restrictions])
            found[number] = windows.has_window(int(index.num_frames[row]), index.clip_runs(row), starts)
    message = f"none of {{count}} samples has a window within {windows.span} that its features are of"
    candidates.need("a window that features are of", found, message)
