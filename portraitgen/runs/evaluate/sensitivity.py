"""`evaluate.py sensitivity`: what each figure says of real clips that were made worse in one known way."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.types import Face
from portraitgen.media.files import replace_file, writable_folder
from portraitgen.metrics.degradations import degrade
from portraitgen.metrics.grader import Grader, SetGrader
from portraitgen.metrics.grading import grade
from portraitgen.metrics.report.tables import markdown_table
from portraitgen.metrics.scores import GENERATED, MetricInfo
from portraitgen.runs.config.check import check_config
from portraitgen.runs.config.schema import PathsConfig
from portraitgen.runs.evaluate.graders import build_graders, figures_of
from portraitgen.runs.evaluate.sources.files import read_media

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SensitivityConfig:
    """What `evaluate.py sensitivity` reads."""

    clips: list[str] = MISSING
    """Real videos with sound, of one size, of different people: each is swapped with the next one."""
    frames: int = MISSING
    """At most so many frames of each."""
    size: int = MISSING
    """Side in pixels to which they are brought."""
    out: str = MISSING
    """Folder for sensitivity.md."""
    metrics: Any = MISSING
    """Graders, as for evaluate.py; those of sets are left out."""
    faces: Any = MISSING
    """Face backend."""
    paths: PathsConfig = MISSING


ConfigStore.instance().store(name="evaluate_sensitivity_schema", node=SensitivityConfig)


def sensitivity(config: DictConfig) -> None:
    """Write the table as Markdown, and print it.

    Raises:
        ValueError: fewer than two clips, or one that cannot be read.
    """
    check_config(config)
    out = writable_folder(Path(config.out))
    graders, _ = build_graders(config.metrics.graders, strict=False)
    backend: FaceBackend = instantiate(config.faces, _convert_="all")
    found = measure(
        [Path(path) for path in config.clips],
        graders=graders,
        backend=backend,
        frames=config.frames,
        size=config.size,
    )
    text = sensitivity_table(found, figures_of(graders))
    replace_file(out / "sensitivity.md", text.encode())
    print(text)


def measure(
    clips: list[Path], *, graders: Mapping[str, Grader], backend: FaceBackend, frames: int, size: int
) -> dict[str, dict[str, float]]:
    """Version of the clips -> figure -> mean over the clips that have it.

    Args:
        clips: real videos of different people; each one's faces are swapped with the next one's.
        graders: by name; those of sets are left out.
        backend: finds the faces.
        frames: at most so many of each clip.
        size: side in pixels to which the frames are brought.

    Raises:
        ValueError: fewer than two clips, or one that cannot be read.
    """
    if len(clips) < 2:
        raise ValueError("clips: give two videos at least, of different people")
    read = [read_media(path, fps=Fraction(25), size=(size, size)) for path in clips]
    count = min(frames, *(clip.frames.shape[0] for clip in read))
    pictures = [clip.frames.at(np.arange(count)) for clip in read]
    remembered = _Remembering(backend)
    of_clips = {name: grader for name, grader in graders.items() if not isinstance(grader, SetGrader)}
    values: dict[str, dict[str, list[float]]] = {}
    for index, (path, clip) in enumerate(zip(clips, read, strict=True)):
        sound = None if clip.audio is None else clip.audio[: round(count / 25 * 16000)]
        other = pictures[(index + 1) % len(clips)]
        for version, material in degrade(path.stem, pictures[index], sound, other, fps=25.0).items():
            (row,) = grade(material, graders=of_clips, backend=remembered, methods=(GENERATED,))
            for name in row.scores:
                values.setdefault(version, {}).setdefault(name, []).append(row.mean(name))
            log.info("%s, %s", path.stem, version)
    return {
        version: {name: float(np.nanmean(each)) for name, each in figures.items() if np.isfinite(each).any()}
        for version, figures in values.items()
    }


def sensitivity_table(found: Mapping[str, Mapping[str, float]], metrics: Mapping[str, MetricInfo]) -> str:
    """The table in Markdown: a line for each figure, a column for each version."""
    taken = [name for name in metrics if any(name in figures for figures in found.values())]
    body = [
        [
            (f"{metrics[name].heading}", ""),
            *((metrics[name].show(figures.get(name, np.nan)), "") for figures in found.values()),
        ]
        for name in taken
    ]
    return "\n".join(markdown_table(["Figure", *found], body)) + "\n"


class _Remembering:
    """A face backend that looks at each picture once: the versions of a clip share most of their frames."""

    def __init__(self, backend: FaceBackend) -> None:
        self._backend = backend
        self._found: dict[tuple[bytes, bool], list[Face]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def detect(self, image: np.ndarray, *, embed: bool = False) -> list[Face]:
        key = (hashlib.sha256(image.tobytes()).digest(), embed)
        if key not in self._found:
            self._found[key] = self._backend.detect(image, embed=embed)
        return self._found[key]
