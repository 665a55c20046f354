"""Rows of an evaluation that has not ended, kept as they come: the next start of the same one goes on."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from portraitgen.metrics.protocol import VideoFacts
from portraitgen.metrics.saved import finite
from portraitgen.metrics.scores import Row

FOLDER = "unfinished"
"""Below the folder of the report, until that is written."""


class GradedVideo(NamedTuple):
    """All rows of one video, and what it was graded against."""

    facts: VideoFacts
    rows: tuple[Row, ...]


class KeptRows:
    """Graded videos of this evaluation and of earlier starts of it that were broken off.

    A video that was graded under another protocol, or from files that have changed since, is graded again.
    A line that a killed process left half written is no line.

    Args:
        out: folder of the report.
        protocol: all on which a row depends beside the files: graders, faces, settings of the source, commit.
        rank: of this process, which writes a file of its own.
    """

    def __init__(self, out: Path, protocol: Mapping[str, Any], *, rank: int = 0) -> None:
        self.folder = out / FOLDER
        self.protocol = _digest(protocol)
        self.file = self.folder / f"rows-{rank}.jsonl"
        self._kept: dict[str, Mapping[str, Any]] = {}
        for path in sorted(self.folder.glob("rows-*.jsonl")):
            for line in path.read_text(errors="replace").splitlines():
                try:
                    kept = json.loads(line)
                    if kept["protocol"] == self.protocol:
                        self._kept[kept["facts"]["video"]] = kept
                except (ValueError, LookupError, TypeError, RecursionError):
                    continue

    def find(self, video: str, stamp: object) -> GradedVideo | None:
        """A video as it was graded from the same files; None where it was not.

        Args:
            video: its key.
            stamp: says which files these are; anything that JSON takes.
        """
        kept = self._kept.get(video)
        if kept is None or kept.get("stamp") != _digest(stamp):
            return None
        try:
            return GradedVideo(VideoFacts(**kept["facts"]), tuple(_row(video, row) for row in kept["rows"]))
        except (ValueError, LookupError, TypeError, AttributeError):
            return None  # a damaged line is none

    def keep(self, graded: GradedVideo, stamp: object) -> None:
        """Write a video down at once."""
        line = {
            "protocol": self.protocol,
            "stamp": _digest(stamp),
            "facts": asdict(graded.facts),
            "rows": [_plain(row) for row in graded.rows],
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        # A half line of a killed process is ended, so that it spoils no other.
        with self.file.open("a") as file:
            file.write(("\n" if file.tell() else "") + json.dumps(line, allow_nan=False))

    def forget(self) -> None:
        """Remove all of it, once the report is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _plain(row: Row) -> dict[str, Any]:
    scores = {
        name: finite(float(values)) if values.ndim == 0 else [finite(value) for value in values.tolist()]
        for name, values in row.scores.items()
    }
    return {
        "method": row.method,
        "frames": row.frames.tolist(),
        "scores": scores,
        "reasons": dict(row.reasons),
        "failure": row.failure,
    }


def _row(video: str, kept: Mapping[str, Any]) -> Row:
    scores = {name: _values(values) for name, values in kept["scores"].items()}
    frames = np.array(kept["frames"], dtype=np.int64)
    return Row(video, kept["method"], frames, scores, kept["reasons"], kept["failure"])


def _values(values: float | Sequence[float | None] | None) -> np.ndarray:
    """JSON's null is NaN."""
    return np.array(values, dtype=np.float64)
