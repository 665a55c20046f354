"""How memory that is freed leaves a process which frames go through for hours.

glibc raises, each time a large array is freed, the size from which on arrays are mapped on their own, up to
32 MB, and keeps the smaller ones in its heap. There they lie between things that stay, so that much of what
is freed cannot be given back: a process grows with the number of frames that it has seen, though it holds
none of them.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of malloc.h."""
MAPPED_BYTES = 2**18
"""Larger arrays leave with the last that holds them. (At 1 MB an evaluation took 100 MB more.)"""


def return_freed_memory() -> bool:
    """Have arrays of 256 KB or more mapped on their own from now on, in all threads; whether that was done.

    With glibc alone (other C libraries give memory back by themselves), and not where the user says it
    otherwise (MALLOC_MMAP_THRESHOLD_).
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    return mallopt(_MMAP_THRESHOLD, MAPPED_BYTES) == 1


def trim_heap() -> None:
    """Give back the pages of the heap on which nothing is left, between what stays (glibc): milliseconds."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def collect_garbage() -> None:
    """Free what only refers to itself, as PyAV's decoders do (50 MB of a video of 256x256), and trim."""
    gc.collect()
    trim_heap()


@contextmanager
def collecting_new_garbage_alone() -> Iterator[None]:
    """Inside, collections pass over all that is there already: a tenth of a second each with torch loaded."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
