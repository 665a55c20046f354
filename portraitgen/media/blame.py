"""Whose error it is: our own code tells users what is wrong, a library's words are a defect of ours."""

import traceback


def raised_here(error: BaseException) -> bool:
    """Whether portraitgen's own code raised it, not a library that it called."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(modules) and modules[-1].split(".")[0] == "portraitgen"
