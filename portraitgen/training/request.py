"""One thing to generate: what a system makes of what a person gave, and what runs draws, writes and lists."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from portraitgen.training.learner import Batch

_KEY_WORD = 48
"""Letters of a photo's name or of a prompt in a key, at most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """One picture or clip to generate.

    Attributes:
        key: names it by what it is made of, such as "face-talk"; with the seed it decides the noise.
        batch: what `Generator.stream` and `Generator.shown` take, of one sample: tensors [1, …] on the CPU.
            What goes by frame is `FramesOnDemand`, so that clips of any length fit into memory.
        length: frames; None: one picture.
        fps: frames a second of a clip.
        sound: float32 [N] or [1, N] mono, [2, N] stereo, at `media.sound.SOUND_RATE`, from the first frame
            on; None: silent.
        frames: int64 [length], their numbers in the clip that drives; None: 0, 1, 2 ….
        truth: float [T, 3, H, W] in [-1, 1], what should come out; None where nobody knows.
        landmarks: float32 [T, K, 2] that the face was told to follow, in pixels of the result, NaN without
            a face; None where nothing moves it by landmarks.
        scheme: order and meaning of `landmarks`.
        references: files of each person's photos.
        prompt, negative_prompt: the texts that the system was given.
        source: more facts for samples.jsonl: plain JSON values. Of a prepared photo `part`, if only a part of
            it was drawn: [x, y, width, height] in its pixels, and the result's [width, height].
    """

    key: str
    batch: Batch
    length: int | None = None
    fps: Fraction | None = None
    sound: np.ndarray | None = None
    frames: np.ndarray | None = None
    truth: Tensor | None = None
    landmarks: np.ndarray | None = None
    scheme: str | None = None
    references: tuple[tuple[Path, ...], ...] = ()
    prompt: str | None = None
    negative_prompt: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert (self.length is None) == (self.fps is None), "clips have a rate, pictures have none"
        assert self.frames is None or len(self.frames) == self.length

    @property
    def count(self) -> int:
        """Frames; 1 of a picture."""
        return 1 if self.length is None else self.length

    @property
    def numbers(self) -> np.ndarray:
        """int64 [count]: what each frame is called."""
        return np.arange(self.count) if self.frames is None else self.frames


class StoredClip(Protocol):
    """A prepared clip or photo of the shards that a person gave; read when asked for.

    Of the main person, but for `key_points`.
    """

    @property
    def key(self) -> str: ...

    @property
    def length(self) -> int:
        """Frames of the whole clip; 1 of a photo."""
        ...

    @property
    def rate(self) -> Fraction | None:
        """Frames a second; None of a photo."""
        ...

    @property
    def landmark_scheme(self) -> str: ...

    @property
    def frames(self) -> np.ndarray:
        """int64 [T], increasing: those to generate, in which the person is seen."""
        ...

    def valid_frames(self, span: Sequence[float]) -> np.ndarray:
        """int64 [N], increasing: frames of a share of the clip in which the person is seen."""
        ...

    def landmarks(self, frames: np.ndarray) -> np.ndarray:
        """float32 [n, K, 2] in pixels, NaN where no face was found."""
        ...

    def key_points(self) -> np.ndarray:
        """float32 [P, 5, 2] in pixels, of everybody in a photo whose face was found, the main person first.

        Of a clip, of the main person in the first frame that shows them.
        """
        ...

    def pictures(self, frames: np.ndarray) -> Tensor:
        """float [n, 3, H, W] in [-1, 1]."""
        ...

    def sound(self, frames: np.ndarray, *, sample_rate: int) -> np.ndarray | None:
        """float32 [N] during these frames; None without sound, and where frames between are left out."""
        ...

    def request(self, *, reference: int | None = None, frames: np.ndarray | None = None) -> Request:
        """Its frames as they are: key, reference, landmarks, reference_landmarks and, where there is one,
        caption in the batch, laid out as for training; truth, sound and rate beside it.

        Args:
            reference: frame that is the reference; None: the first that shows the person.
            frames: those to generate, some of `frames`, increasing; None: all of them.
        """
        ...


def request_key(references: Sequence[Sequence[Path]], *more: str | None) -> str:
    """A key made of the first photo of each person and of words: `ann-bob-two-friends-at-the-sea`.

    Args:
        more: names of files without their suffix, or a prompt; None: nothing.
    """
    words = [*(person[0].stem for person in references), *(text for text in more if text)]
    plain = [re.sub(r"[^\w]+", "-", word[:_KEY_WORD]).strip("-") for word in words]
    return "-".join(word for word in plain if word) or "sample"
