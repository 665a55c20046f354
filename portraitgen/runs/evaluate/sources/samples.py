"""What generate.py wrote: samples.jsonl says what each clip and picture was made from."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from portraitgen.faces.landmark_file import load_landmarks
from portraitgen.media.audio import SAMPLE_RATE, read_audio
from portraitgen.media.bounded import parse_rate
from portraitgen.media.container import VideoError
from portraitgen.media.files import inside
from portraitgen.media.framing import Framing
from portraitgen.metrics.frames import ChosenFrames, Frames, HeldFrames
from portraitgen.metrics.grader import Fact
from portraitgen.metrics.grading import Material
from portraitgen.metrics.protocol import VideoFacts, digest_given, one_or_all
from portraitgen.metrics.report.media import Media
from portraitgen.metrics.rgb import as_uint8
from portraitgen.runs.evaluate.sources.files import VIDEOS, VideoFrames, read_picture
from portraitgen.runs.evaluate.sources.sample_rows import FILES, read_rows
from portraitgen.runs.evaluate.sources.source import Reading, file_stamps
from portraitgen.runs.generate.stored_clips import ShardClips

SAMPLES = "samples.jsonl"
"""What generate.py writes beside its clips: a line for each."""

_SHARE = re.compile(r"share-(\d+)-of-(\d+)")
"""Folders of the tasks of a job array: experiments/slurm/generate.sbatch."""


class GeneratedSamples:
    """What generate.py wrote into a folder: graded against the frames of the shards that it was made from.

    A sample that was made from anything else has no truth. It is graded by what it was given: the photo of
    the person, the prompt, the landmarks that it was told to follow, its sound.

    Args:
        folder: that of the list; files are named from it.
        samples: rows of the list, where they have been read.

    Raises:
        ValueError: the folder holds no samples, or a row leads out of it.
    """

    def __init__(self, folder: Path, samples: Iterable[Mapping[str, Any]] | None = None) -> None:
        self.folder = folder
        rows = read_samples(folder) if samples is None else samples
        self.samples = {sample["key"]: sample for sample in rows}
        self.keys = sorted(self.samples)
        self.place = {"generated": str(folder.resolve())}
        all_true = all("shard" in sample for sample in self.samples.values())
        self.preparation: Mapping[str, str] = {
            "frame_sampler": "the generated frames of each clip, all of them",
            "resize": "none",
            "crop": "as the shards hold them" if all_true else "none",
        }

    @cached_property
    def settings(self) -> Mapping[str, Fact]:
        """System, weights, step, seed and sampling; of what differs between the samples all values."""
        samples = [self.samples[key] for key in self.keys]
        names = {"system": "system", "weights": "weights", "step": "step", "commit": "trained at commit"}
        return {
            **{label: _said(sample.get(name) for sample in samples) for name, label in names.items()},
            "seed": _said(sample["seed"] for sample in samples),
            "graded frames seen in training": self._seen_in_training(),
            **samples[0]["sampling"],
        }

    @property
    def recognizers(self) -> Mapping[str, str]:
        """See `ClipSource.recognizers`: as the weights file said."""
        return {k: v for sample in self.samples.values() for k, v in sample.get("recognizers", {}).items()}

    def check(self) -> None:
        """See `ClipSource.check`: shards or photos that are gone, or shards that no longer hold the clips."""
        for shard in {sample["shard"] for sample in self.samples.values() if "shard" in sample}:
            held = set(ShardClips(shard).keys)
            for key, sample in self.samples.items():
                if sample.get("shard") == shard and _clip(sample) not in held:
                    raise ValueError(f"{shard} no longer holds {_clip(sample)}, from which {key} was made")
        for key, sample in self.samples.items():
            for photo in _references(sample):
                if not photo.is_file():
                    raise ValueError(f"{photo} is gone, from which {key} was made: put it back")

    def read(self, key: str) -> Reading:
        """What was generated, and all that it can be graded against."""
        sample = self.samples[key]
        return self._read_with_truth(key) if "shard" in sample else self._read_alone(key)

    def _read_with_truth(self, key: str) -> Reading:
        """The generated frames, the true ones, their landmarks, and those frames that were trained on."""
        sample = self.samples[key]
        frames = np.array(sample["frames"], dtype=np.int64)
        clips, clip = ShardClips(sample["shard"]), _clip(sample)
        landmarks = clips.landmarks(clip, frames)
        truth = _stored(clips, clip, frames)
        if "part" in sample:
            shown = _part(sample)
            truth = _part_of(truth, shown)
            landmarks = shown.to_frame(landmarks)
        height, width = truth.shape[-2:]
        first = clips.pictures(clip, np.array([sample["reference_frame"]]))[0]
        reference = as_uint8(first, name=f"{key}: reference")
        audio = clips.sound(clip, frames, sample_rate=SAMPLE_RATE)
        prompt = sample.get("prompt")
        digest = digest_given(
            frames, truth=truth, reference=reference, driving=landmarks, audio=audio, prompt=prompt
        )
        fps = _rate(sample)
        facts = VideoFacts(key, len(frames), fps, width, height, digest)
        try:
            generated = self._generated(sample)
        except VideoError as error:
            return Reading(facts, frames, None, failure=str(error))
        if generated.shape != truth.shape:
            raise ValueError(
                f"{self._file(sample)} has {list(generated.shape)}, the frames that it was driven "
                f"by have {list(truth.shape)}: generate it again"
            )
        others = np.zeros(0, np.int64)
        if sample["train_span"] is not None and sample["train_span"][1] > 0:
            others = np.setdiff1d(clips.valid_frames(clip, sample["train_span"]), frames)
        material = Material(
            video=key,
            generated=generated,
            fps=fps,
            truth=truth,
            reference=reference,
            driving=landmarks,
            audio=audio,
            frame_index=frames,
            train_frames=_stored(clips, clip, others) if len(others) else None,
            train_landmarks=clips.landmarks(clip, others) if len(others) else None,
            prompt=prompt,
        )
        return Reading(facts, frames, material)

    def _read_alone(self, key: str) -> Reading:
        """The generated frames, and the photos, prompt, landmarks and sound that they were made from."""
        sample = self.samples[key]
        frames, fps, prompt = np.array(sample["frames"], dtype=np.int64), _rate(sample), sample.get("prompt")
        people = [read_picture(photo)[0] for photo in _references(sample)]
        reference = people.pop() if len(people) == 1 else None
        driving = None
        if "landmarks" in sample:
            driving = load_landmarks(inside(self.folder, sample["landmarks"]))
        points = None if driving is None else driving.points
        digest = digest_given(frames, reference=reference, driving=points, prompt=prompt, people=people)
        try:
            generated = self._generated(sample)
            audio = read_audio(self._file(sample)) if fps else None
        except VideoError as error:
            facts = VideoFacts(key, len(frames), fps, None, None, digest)
            return Reading(facts, frames, None, failure=str(error))
        height, width = generated.shape[-2:]
        material = Material(
            video=key,
            generated=generated,
            fps=fps,
            reference=reference,
            people=people,
            driving=points,
            driving_scheme=None if driving is None else driving.scheme,
            audio=audio,
            frame_index=frames,
            prompt=prompt,
        )
        return Reading(VideoFacts(key, len(frames), fps, width, height, digest), frames, material)

    def stamp(self, key: str) -> object:
        """See `ClipSource.stamp`."""
        sample = self.samples[key]
        beside = [inside(self.folder, sample[kind]) for kind in FILES if kind in sample]
        shard = Path(sample["shard"]) if "shard" in sample else None
        return [*file_stamps(*beside, shard, *_references(sample)), sample]

    def media(self, key: str, folder: Path) -> list[Media]:
        """What generate.py drew."""
        sample = self.samples[key]
        shown = ", ".join(sample.get("shown", ("reference", "driving landmarks", "generated", "truth")))
        return [
            Media(inside(self.folder, sample[kind]), f"{key}: {shown}")
            for kind in ("panel", "sheet")
            if kind in sample
        ]

    def _file(self, sample: Mapping[str, Any]) -> Path:
        return inside(self.folder, sample["video"] if "video" in sample else sample["image"])

    def _generated(self, sample: Mapping[str, Any]) -> Frames:
        """The generated frames; of a picture one."""
        path = self._file(sample)
        if path.suffix.lower() in VIDEOS:
            return VideoFrames(path)
        return HeldFrames(read_picture(path), name=str(path))

    def _seen_in_training(self) -> str:
        """How many of the graded frames the weights were trained on, in words."""
        samples = self.samples.values()
        if any(sample["train_span"] is None for sample in samples):
            return "unknown"
        total = sum(len(sample["frames"]) for sample in samples)
        seen = sum(sample["frames_trained_on"] for sample in samples)
        return f"{seen} of {total}" if seen else "none"


def _clip(sample: Mapping[str, Any]) -> str:
    """Key of the prepared clip that a sample was made from."""
    return str(sample.get("clip", sample["key"]))


def _part(sample: Mapping[str, Any]) -> Framing:
    """What of a prepared photo was drawn again, and at which size."""
    x, y, columns, rows, width, height = sample["part"]
    return Framing(x, y, columns, rows, (height, width))


def _stored(clips: ShardClips, clip: str, frames: np.ndarray) -> ChosenFrames:
    """These frames of a prepared clip, decoded when they are looked at.

    Args:
        frames: int64 [T], increasing.
    """

    def fetch(places: np.ndarray) -> Tensor:
        wanted, inverse = np.unique(frames[places], return_inverse=True)
        found = as_uint8(clips.pictures(clip, wanted), name=f"{clip}: frames")
        return found[torch.from_numpy(inverse)]

    _, _, height, width = clips.pictures(clip, frames[:1]).shape
    return ChosenFrames((len(frames), 3, height, width), fetch)


def _part_of(whole: ChosenFrames, shown: Framing) -> ChosenFrames:
    """The part that was drawn again of each frame."""
    return ChosenFrames(
        (whole.shape[0], 3, *shown.size),
        lambda places: torch.stack([_cut(shown, picture) for picture in whole.at(places)]),
    )


def _cut(shown: Framing, picture: Tensor) -> Tensor:
    """The part of one, uint8 [3, H, W]."""
    return torch.from_numpy(shown.cut(picture.movedim(0, -1).numpy()).copy()).movedim(-1, 0)


def _rate(sample: Mapping[str, Any]) -> float:
    """Frames a second; 0 of a picture."""
    return 0.0 if sample["fps"] is None else float(parse_rate(sample["fps"]))


def _references(sample: Mapping[str, Any]) -> list[Path]:
    """The first photo of each person."""
    return [Path(photos[0]) for photos in sample.get("references", [])]


def _said(values: Iterable[Any]) -> Fact:
    """The one value that all have, or all different ones in words."""
    found = one_or_all([*values])
    return ", ".join(map(str, found)) if isinstance(found, list) else found


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """Rows of a folder's samples.jsonl, or of those of its shares (generate.py share=…).

    Raises:
        ValueError: there is none, it is broken or empty, it names files outside the folder, or a share is
            missing.
    """
    path = folder / SAMPLES
    shares = _shares(folder)
    if shares and not path.is_file():
        return [*_rows_of_shares(shares)]
    if not path.is_file():
        raise ValueError(
            f"no {SAMPLES} in {folder}: give the folder that generate.py wrote (its out=…), or for other "
            "files say real=… or pairs=… too"
        )
    samples = read_rows(path)
    if not samples:
        raise ValueError(f"{path} is empty: generate clips first")
    return samples


def _shares(folder: Path) -> list[Path]:
    """The folders of all shares, by number.

    Raises:
        ValueError: some are missing.
    """
    found = {int(m[1]): (path, int(m[2])) for path in folder.glob("*") if (m := _SHARE.fullmatch(path.name))}
    if not found:
        return []
    counts = {count for _, count in found.values()}
    if len(counts) > 1:
        raise ValueError(f"{folder} holds shares of different generations: remove those of the one before")
    (count,) = counts
    if missing := [str(number) for number in range(count) if number not in found]:
        raise ValueError(f"{folder} lacks share {', '.join(missing)} of {count}: generate them first")
    return [found[number][0] for number in range(count)]


def _rows_of_shares(shares: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Rows of all, whose files are named from the folder that holds them; a share may have none."""
    keys: set[str] = set()
    for share in shares:
        rows = read_rows(share / SAMPLES) if (share / SAMPLES).is_file() else []
        for row in rows:
            if row["key"] in keys:
                raise ValueError(f"{share / SAMPLES}: {row['key']!r} is in another share, too")
            keys.add(row["key"])
            yield of_share(share.name, row)


def of_share(share: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the share in this folder, its files named from the folder that holds all shares."""
    return {**row, **{kind: f"{share}/{row[kind]}" for kind in FILES if kind in row}}


def share_name(number: int, count: int) -> str:
    """The folder of one share of `count`, counted from 0."""
    return f"share-{number}-of-{count}"
