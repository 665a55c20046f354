"""Whose error it is: our own code tells users what is wrong, a library's words are a defect of ours."""

import traceback
from collections.abc import Iterator


def raised_here(error: BaseException) -> bool:
    """Whether portraitgen's own code raised it, not a library that it called."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(modules) and modules[-1].split(".")[0] == "portraitgen"


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from, the last one first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
