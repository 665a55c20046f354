"""What a system takes to generate, as data: every key with its kind and meaning, and which go together.

`generate.py` refuses by it what a system does not take, before any weights are read, and its `--help` prints
it; a page to try a system can be made from it. A system says it in its `inputs.py`, in a class `Inputs`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch

from portraitgen.training.generator import Generator
from portraitgen.training.learner import Learner
from portraitgen.training.request import Request, StoredClip

Kind = Literal[
    "photos",
    "text",
    "face",
    "video",
    "sound",
    "layout",
    "shards",
    "weights",
    "file",
    "choice",
    "number",
    "shares",
    "count",
    "rate",
    "size",
    "switch",
]
"""What a value is:

photos   pictures of people: a path; a list, one photo a person; or a list of lists, several of each
text     words
face     which face of the input `of`: largest, left, right, or a number, 1 being on the left
video    path of a video, of a picture, or of a landmark file (.npz)
sound    path of a sound, or of a video with one
layout   where each person is: a list with, for each, a picture of a mask or [x0, y0, x1, y1] in shares of
         width and height
shards   path or patterns of prepared shards
weights  path of another model's weights file
file     path of any other file
choice   one of `choices`
number   within `low` and `high`
shares   of each person's photos: one number for all, or a list for each, [[0.3],[0.2,0.1]], or [0.3] of one
         person; numbers within `low` and `high`, those of a person 1 together at most
count    a whole number within `low` and `high`
rate     frames a second
size     pixels: one number, or [height, width]
switch   true or false
"""

PATHS = ("video", "sound", "weights", "file")
"""Kinds whose value is the path of one file."""


@dataclass(frozen=True, slots=True)
class Input:
    """One key that a system takes.

    Attributes:
        name: as it is typed; a system's own settings begin with `inputs.`, those of how it draws with
            `sampling.`.
        kind: see `Kind`.
        meaning: one line for people.
        default: the value where nothing is given.
        choices: of a choice.
        low, high: bounds of a number, both allowed; None: none.
        people: of photos and layout: at most so many people; None: any number.
        photos: of photos: at most so many of each person; None: any number.
        of: of a face: the photos or the video that it is in.
        origin: where a file comes from that is not there.
    """

    name: str
    kind: Kind
    meaning: str
    default: Any = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    people: int | None = 1
    photos: int | None = 1
    of: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        assert self.kind in get_args(Kind), f"{self.name}: no kind {self.kind!r}"
        assert (self.kind == "choice") == bool(self.choices), f"{self.name}: choices are for a choice"
        assert (self.kind == "face") == bool(self.of), f"{self.name}: a face is one of some input"
        own = self.name.startswith(("inputs.", "sampling."))
        assert own or self.name in COMMON, f"{self.name}: a key of one system is called inputs.{self.name}"
        bounded = self.low is not None and self.high is not None
        assert bounded or not self.of_sampling, f"{self.name}: a setting of the sampling has bounds"

    @property
    def of_sampling(self) -> bool:
        """Whether it is a setting of how a system draws."""
        return self.name.startswith("sampling.")


COMMON: dict[str, Kind] = {
    "reference": "photos",
    "prompt": "text",
    "negative_prompt": "text",
    "driving": "video",
    "audio": "sound",
    "layout": "layout",
    "shards": "shards",
    "size": "size",
    "fps": "rate",
    "length": "count",
}
"""The names that are the same for all systems; others are a system's own, under `inputs.`."""


NUM_STEPS = Input(
    "sampling.num_steps",
    "count",
    "denoising steps: more draw finer, and take as much longer",
    low=1,
    high=200,
)
"""Of the sampling of systems that denoise."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask a system for pictures.

    Attributes:
        meaning: what comes of it, such as "a photo that moves as a video does".
        needs: names of the inputs without which it does not work.
        takes: those that may be given beside.
    """

    meaning: str
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()

    @property
    def usage(self) -> str:
        """What must be typed."""
        return " ".join(f"{name}=…" for name in self.needs)


@dataclass(frozen=True, slots=True)
class Given:
    """What a person gave for one request, checked and converted by `training.given.accept`.

    `given[name]` is the value, or the default of an input that was not given. Paths are `Path`; photos a
    tuple of people of tuples of paths; shares a number, or a tuple of people of tuples of numbers; a rate is
    a `Fraction`; a size (height, width).
    """

    way: Way
    values: Mapping[str, Any]
    seed: int = 0

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


@dataclass(frozen=True, slots=True)
class Resources:
    """What generate.py lends to a system that makes requests.

    Attributes:
        system: with its weights, on its device.
        facts: what the weights file says beside the weights: `landmark_scheme`, `data` and so on.
        faces: builds the face backend that was chosen (`faces.backend.FaceBackend`).
        load: another model's weights file → what a run trained, on the same device.
        progress: `with progress("face.mp4: looking for the face") as on_step:` shows how far a long step is;
            `on_step(done, total)`.
    """

    system: Generator
    facts: Mapping[str, Any]
    faces: Callable[[], Any]
    load: Callable[[Path], Learner]
    progress: Callable[[str], AbstractContextManager[Callable[[int, int], None]]]

    @property
    def device(self) -> torch.device:
        return self.system.device


class SystemInputs(ABC):
    """What a system takes, and how it becomes requests. One object serves a whole run of generate.py.

    Attributes:
        inputs: all keys that it takes.
        ways: what of them goes together; shards are given in a way of its own.
        sampling: settings of its pipeline that may be chosen for each request; what the weights say of them
            is their default, and they go with every way.
    """

    inputs: ClassVar[tuple[Input, ...]]
    ways: ClassVar[tuple[Way, ...]]
    sampling: ClassVar[tuple[Input, ...]] = ()

    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    @classmethod  # noqa: B027 (most systems have nothing to add)
    def check(cls, given: Given, facts: Mapping[str, Any]) -> None:
        """Refuse what `inputs` and `ways` cannot say, before the weights are read.

        Raises:
            ValueError: names the key, and what to do.
        """

    @abstractmethod
    def requests(self, given: Given) -> Iterator[Request]:
        """What comes of what was given, but for shards.

        Raises:
            ValueError: a file cannot be read, or does not show what it must.
        """

    def of_clip(self, clip: StoredClip, given: Given) -> Request | None:
        """What comes of one prepared clip or photo; None: nothing, which has been said in the log.

        Raises:
            ValueError: clips of this kind do not fit the weights.
        """
        return clip.request()
