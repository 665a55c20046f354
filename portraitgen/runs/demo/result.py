"""A result as the page keeps it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one job.

    Attributes:
        folder: that holds all its files; its name is part of their addresses.
        title: what it is made of.
        files: name under which a file is downloaded → the file.
        main: name of the video or picture.
        panel: name of the video that shows it beside what it is made of; None: a picture has none.
        settings: name of the file that says how it was made.
        command: the words that make the same file.
        notes: what may spoil it, in words.
    """

    folder: Path
    title: str
    files: Mapping[str, Path]
    main: str
    panel: str | None
    settings: str
    command: str
    notes: Sequence[str] = ()
