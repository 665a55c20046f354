"""What every grader is: how it is built, what it is given, and what it says of a clip or of a set of clips.

A grader is built from the configuration by `_target_` (conf/metrics lists them by name), so its arguments are
its settings. In `__init__` it loads what it needs and raises `MissingWeights` when a file is not there: then
the figures are "skipped" with that message, or, with strict=true, the evaluation stops before it begins.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from torch import Tensor

from portraitgen.faces.backend import FaceBackend
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.scores import Grades, MetricInfo

Part = TypeVar("Part")
UNKNOWN = "unknown: "
"""In front of the name of a recognition network whose SHA-256 is not known, in its place."""
Fact: TypeAlias = str | int | float | bool | None
"""A setting on which a figure depends: two results may be compared only when all of them agree."""


class MissingWeights(ValueError):
    """A file of weights that a grader needs is not on this machine.

    Args:
        path: what the setting says, or None when it is not set.
        file: name of the published file.
        origin: where it comes from.
        licence: under which it may be used.
        setting: argument of the grader that gives its path.
    """

    def __init__(
        self, path: Path | str | None, *, file: str, origin: str, licence: str, setting: str
    ) -> None:
        self.path, self.file, self.origin, self.licence = path, file, origin, licence
        self.setting = setting
        super().__init__(self.advice(setting))

    def advice(self, setting: str) -> str:
        """What is missing and how to get it, where the setting is known under this name."""
        lacks = f"{setting} is not set" if self.path is None else f"{setting}={self.path}: no such file"
        return (
            f"{lacks}; fetch {self.file} from {self.origin} (licence: {self.licence}) and set {setting} to "
            "its path"
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GradedClip:
    """One clip made by one method, and what it can be graded against.

    Attributes:
        video: key of the clip.
        method: a key of `scores.METHODS`. Of the true frames `pictures` and `truth` are the same object.
        pictures: frames [T, 3, H, W], with the faces found in them.
        truth: the frames that they should have been, of the same number and size; None when nobody knows.
        reference: [1, 3, H', W'], what the generator was given of the person; None without, and of several.
        people: of several people a photo [1, 3, H', W'] each; empty of one.
        driving: [T, K, 2] landmarks that the face was to follow, in pixels of `pictures`, NaN without a face;
            None when nothing drives.
        fps: frames a second.
        audio: float32 [N] mono at 16 kHz in [-1, 1], from the first frame on; None without sound.
        prompt: the text that the generator was given, or None.
    """

    video: str
    method: str
    pictures: Pictures
    truth: Pictures | None
    reference: Pictures | None
    driving: np.ndarray | None
    fps: float
    audio: np.ndarray | None
    prompt: str | None
    people: tuple[Pictures, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Frames of a clip that follow each other, `frames.CHUNK` of them but for the last.

    Attributes:
        first: place of the first one in the clip.
        frames: uint8 [N, 3, H, W].
        truth: the true frames at their places, or None.
    """

    first: int
    frames: Tensor
    truth: Tensor | None

    def of(self, chosen: np.ndarray) -> np.ndarray:
        """Those of the chosen places that lie in here, int64, each once and in order."""
        return np.unique(chosen[(chosen >= self.first) & (chosen < self.first + len(self.frames))])


@dataclass(frozen=True, slots=True, eq=False)
class Watch(Generic[Part]):
    """What a grader does while the frames of a clip go by, each once.

    Attributes:
        see: takes the next frames, and gives what it keeps of them.
        conclude: from all that was kept, in the order of the frames, to the figures.
    """

    see: Callable[[Chunk], Part]
    conclude: Callable[[list[Part]], Grades]


class Grader(Protocol):
    """What is common to all graders."""

    @property
    def metrics(self) -> Mapping[str, MetricInfo]:
        """The figures that it gives, by the name that they have in results.json."""
        ...

    @property
    def facts(self) -> Mapping[str, Fact]:
        """What must agree between two results beside the definitions: SHA-256 of weights, resize, sampler."""
        ...


@runtime_checkable
class ClipGrader(Grader, Protocol):
    """Gives figures of level "frame" or "clip", from one clip alone: neither order nor batches matter."""

    def grade(self, clip: GradedClip) -> Grades | Watch[Any]:
        """The figures of one clip, or how they come of its pixels, which all graders see in one pass.

        A figure that cannot be taken is NaN with a reason. `clip.pictures` are not read here: their faces are
        known, and of their pixels nobody holds more than a chunk.
        """
        ...


@runtime_checkable
class RecognizingGrader(Grader, Protocol):
    """Judges who somebody is. A generator must not have been trained by the judgement of the same network."""

    def looks_with(self, backend: FaceBackend) -> tuple[str, str | None]:
        """Name and SHA-256 of the recognition network; None where it is the face backend's own."""
        ...


@dataclass(frozen=True, slots=True)
class SetFigure:
    """A figure of all clips of one method together; `value` is NaN where `reason` says why.

    `num_samples` counts what it was taken of (frames for FID, windows for FVD), `num_missing` what should
    have been in it and could not. `bias` is what the figure would be at least between two samples of one
    distribution, only because they are so few; None where it is not biased.
    """

    value: float
    num_samples: int
    num_missing: int = 0
    reason: str | None = None
    bias: float | None = None


@runtime_checkable
class SetGrader(Grader, Protocol):
    """Gives figures of level "set". It gathers frames in a torchmetrics Metric for each method.

    Every process adds its own clips; `compute` is called on all of them for the same methods in the same
    order, also where a process has none, so that the metrics can gather.
    """

    def add(self, clip: GradedClip, chunk: Chunk) -> None:
        """Take the next frames of a clip into the set of its method; of a clip all come, in their order."""
        ...

    def compute(self, method: str) -> Mapping[str, SetFigure]:
        """The figures of all clips of a method, of all processes; without any for one that means nothing."""
        ...
