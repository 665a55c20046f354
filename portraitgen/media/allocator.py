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

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h."""
MAPPED_BYTES = 2**18
"""Larger arrays leave with the last that holds them. (At 1 MB an evaluation took 100 MB more.)"""
_KEPT_BYTES = 2**21
"""Larger ones are mapped on their own always. (At 8 MB a clip of a minute took 70 MB more.)"""
_TOP_BYTES = 2**17
"""So much is free at the end of the heap before glibc gives it back by itself (DEFAULT_TRIM_THRESHOLD)."""
_settings: dict[str, bool] = {"returned": False}
"""Whether `return_freed_memory` has set what `keeping_freed_memory` changes for a while."""


def return_freed_memory() -> bool:
    """Have arrays of 256 KB or more mapped on their own from now on, in all threads; whether that was done.

    With glibc alone (other C libraries give memory back by themselves), and not where the user says it
    otherwise (MALLOC_MMAP_THRESHOLD_).
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    _settings["returned"] = mallopt(_MMAP_THRESHOLD, MAPPED_BYTES) == 1
    return _settings["returned"]


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Inside, the heap keeps freed arrays of up to 2 MB; at the end all that is free leaves together.

    A network frees the map of each layer and asks for the next. To map them anew, page by page, took as long
    as a third of its sums. Without `return_freed_memory` nothing changes, nor where the user sets how much is
    kept (MALLOC_TRIM_THRESHOLD_).
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None or not _settings["returned"] or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        yield
        return
    mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
    mallopt(_TRIM_THRESHOLD, 2**30)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(_TRIM_THRESHOLD, _TOP_BYTES)
        trim_heap()


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
    """Inside, collections pass over all that is there already: a tenth of a second each with torch loaded.

    Nothing changes where that is so already, as in a process that `gc.freeze` was called in before.
    """
    frozen = gc.get_freeze_count() > 0
    if not frozen:
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()


@cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
