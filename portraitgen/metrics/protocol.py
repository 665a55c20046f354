"""How figures were taken: what is needed to take them again, and what must agree to compare them."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from portraitgen.metrics.frames import Frames
from portraitgen.metrics.grader import Fact

COMPARED = (
    "videos",
    "frame_sampler",
    "resize",
    "crop",
    "face_backend",
    "min_face_score",
    "metrics",
    "graders",
)
"""Entries of a protocol in JSON that must agree; the rest says how the clips came about."""


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What one video is graded against, whoever generated the clip.

    Where there is no truth, the clip itself says some of it; of one that cannot be read that is None.

    Attributes:
        video: its key.
        num_frames: frames graded.
        fps: frames a second.
        width, height: of the graded frames, in pixels.
        digest: of all that the clip is graded against (`digest_given`).
    """

    video: str
    num_frames: int | None
    fps: float | None
    width: int | None
    height: int | None
    digest: str | None


@dataclass(frozen=True, slots=True)
class Protocol:
    """How figures were taken.

    Attributes:
        videos: sorted by their keys.
        frame_sampler: which frames of a video are graded.
        resize: how frames were brought to one size, or "none".
        crop: how faces were cut out before, or "none".
        face_backend: name of the face backend of the evaluation.
        min_face_score: the score from which it counts a face as found.
        graders: name of a figure -> the facts of its grader (`Grader.facts`).
        settings: how the clips were generated: weights, sampling steps, seed. Compared runs differ in them.
        source: where the files lie, as evaluate.py was told.
        commit: commit of the code, with a mark when it was changed.
        versions: package -> version.
        command: the command line.
    """

    videos: tuple[VideoFacts, ...]
    frame_sampler: str
    resize: str
    crop: str
    face_backend: str
    min_face_score: float
    graders: Mapping[str, Mapping[str, Fact]] = field(default_factory=dict)
    settings: Mapping[str, Fact] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    commit: str = "unknown"
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


def digest_given(
    frame_index: np.ndarray,
    *,
    truth: Tensor | Frames | None = None,
    reference: Tensor | None = None,
    driving: np.ndarray | None = None,
    audio: np.ndarray | None = None,
    prompt: str | None = None,
    people: Sequence[Tensor] = (),
) -> str:
    """SHA-256, shortened, of all that a generated clip is graded against; None where there is none.

    Args:
        frame_index: [T], the graded places.
        truth: [T, 3, H, W] uint8, or as frames that are read.
        reference: [3, H', W'] uint8.
        driving: [T, K, 2] landmarks.
        audio: [N], the sound that is not the generated clip's own.
        prompt: the text.
        people: [3, H', W'] uint8 each.
    """
    given: dict[str, Any] = {"truth": truth, "reference": reference, "driving": driving, "audio": audio}
    given |= {f"person {number}": photo for number, photo in enumerate(people, start=1)}
    digest = hashlib.sha256(np.asarray(frame_index, np.int64).tobytes())
    for name, values in given.items():
        if isinstance(values, Tensor | np.ndarray):
            array = np.ascontiguousarray(values.cpu().numpy() if isinstance(values, Tensor) else values)
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        elif values is not None:
            digest.update(f"{name} uint8 {values.shape}".encode())
            for chunk in values.chunks():
                digest.update(chunk.cpu().contiguous().numpy().tobytes())
    digest.update(json.dumps(prompt).encode())
    return digest.hexdigest()[:16]


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """SHA-256, shortened, of all entries of a protocol in JSON that must agree."""
    compared = {name: protocol[name] for name in COMPARED}
    canonical = json.dumps(compared, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """`entry: value | other value` for everything that forbids to compare two protocols in JSON.

    A figure that only one of them has is no difference: it is not compared. Nor is what is known of a video
    in one of them alone, as its clip cannot be read in the other.
    """
    figures = [name for name in one["metrics"] if name in other["metrics"]]

    def compared(protocol: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **{name: protocol[name] for name in COMPARED},
            "metrics": {name: protocol["metrics"][name] for name in figures},
            "graders": {name: protocol["graders"].get(name, {}) for name in figures},
        }

    mine, theirs = dict(_leaves(compared(one))), dict(_leaves(compared(other)))
    absent = "(absent)"
    pairs = {name: (mine.get(name, absent), theirs.get(name, absent)) for name in [*mine, *theirs]}
    return [
        f"{name}: {here} | {there}"
        for name, (here, there) in pairs.items()
        if here != there
        and not (name.startswith("videos.") and None in (here, there) and absent not in (here, there))
    ]


def _leaves(value: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for name, each in value.items():
        if isinstance(each, Mapping):
            yield from _leaves(each, f"{place}{name}.")
        else:
            yield f"{place}{name}", each


def one_or_all(values: Sequence[Any]) -> Any:
    """The one value that all have, or all different ones in their order."""
    different = [value for index, value in enumerate(values) if value not in values[:index]]
    return different[0] if len(different) == 1 else different
