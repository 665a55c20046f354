"""What evaluate.py asks of a place where clips come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from portraitgen.metrics.grader import Fact
from portraitgen.metrics.grading import Material
from portraitgen.metrics.protocol import VideoFacts
from portraitgen.metrics.report.media import Media


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One video, read.

    Attributes:
        facts: what it is graded against.
        frames: int64 [T], the places of the graded frames.
        material: what there is to grade, or None.
        failure: why there is nothing, or None: the generated clip is missing or cannot be read.
    """

    facts: VideoFacts
    frames: np.ndarray
    material: Material | None
    failure: str | None = None


class ClipSource(Protocol):
    """Clips to be graded.

    What is wrong with the user's side (truth, lists) is a ValueError; what is wrong with a generated clip is
    that clip's failure.
    """

    @property
    def keys(self) -> Sequence[str]:
        """Keys of all videos, sorted."""
        ...

    @property
    def settings(self) -> Mapping[str, Fact]:
        """How the clips were generated, as far as it is known."""
        ...

    @property
    def recognizers(self) -> Mapping[str, str]:
        """SHA-256 → name of the recognition networks that the generator's losses looked with, if known."""
        ...

    @property
    def place(self) -> Mapping[str, Any]:
        """The settings of evaluate.py that lead here, with absolute paths."""
        ...

    @property
    def preparation(self) -> Mapping[str, str]:
        """`frame_sampler`, `resize` and `crop` of the protocol."""
        ...

    def check(self) -> None:
        """Look at all videos before the first is graded, as far as that costs little.

        Raises:
            ValueError: what `read` would raise after hours; all of it is listed.
        """
        ...

    def read(self, key: str) -> Reading:
        """Read one video."""
        ...

    def stamp(self, key: str) -> object:
        """What tells whether the files of a video are still those that were graded, without reading them."""
        ...

    def media(self, key: str, folder: Path) -> list[Media]:
        """Comparison video and contact sheet of one video; made in `folder` where there are none yet."""
        ...


def file_stamps(*paths: Path | None) -> list[object]:
    """Path, size and time of the last change of files; None for one that is not there."""
    return [
        [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
        if path is not None and path.is_file()
        else None
        for path in paths
    ]
