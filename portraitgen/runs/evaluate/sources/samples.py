"""Clips that generate.py wrote: samples.jsonl says what they were made from."""

import json
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from portraitgen.media.audio import SAMPLE_RATE
from portraitgen.media.decode import VideoError
from portraitgen.media.files import inside
from portraitgen.metrics.frames import as_uint8
from portraitgen.metrics.grader import Fact
from portraitgen.metrics.grading import Material
from portraitgen.metrics.protocol import VideoFacts, digest_given
from portraitgen.metrics.report.media import Media
from portraitgen.runs.evaluate.sources.source import Reading, read_clip
from portraitgen.runs.generate.driving.shards import ShardClips

SAMPLES = "samples.jsonl"
"""What generate.py writes beside its clips: a line for each."""

FILES = ("video", "panel", "sheet")
"""Entries of a line that name files beside it."""

PANEL = "reference, driving landmarks, generated, truth"


class GeneratedSamples:
    """The clips of a folder that generate.py wrote, graded against the frames of the shards that drove them.

    Raises:
        ValueError: the folder holds no samples, or none that have a truth.
    """

    preparation: Mapping[str, str] = {
        "frame_sampler": "the generated frames of each clip, all of them",
        "resize": "none",
        "crop": "as the shards hold them",
    }

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples = {sample["key"]: sample for sample in read_samples(folder)}
        for key, sample in self.samples.items():
            if "shard" not in sample:
                raise ValueError(
                    f"{key} was driven by another face, so there is no truth to grade it against"
                )
        self.keys = sorted(self.samples)
        self.place = {"generated": str(folder.resolve())}

    @cached_property
    def settings(self) -> Mapping[str, Fact]:
        """System, weights, step, seed and sampling of the first clip: generate.py makes all of them alike."""
        first = self.samples[self.keys[0]]
        return {
            "system": first["system"],
            "weights": first["weights"],
            "step": first["step"],
            "trained at commit": first["commit"],
            "seed": first["seed"],
            "graded frames seen in training": self._seen_in_training(),
            **first["sampling"],
        }

    def check(self) -> None:
        """See `ClipSource.check`: shards that are gone, or that no longer hold the clips."""
        for shard in {sample["shard"] for sample in self.samples.values()}:
            held = set(ShardClips(shard).keys)
            for key, sample in self.samples.items():
                if sample["shard"] == shard and key not in held:
                    raise ValueError(f"{shard} no longer holds {key}, by which a clip was driven")

    def read(self, key: str) -> Reading:
        """The generated frames, the true ones, their landmarks, and those frames that were trained on."""
        sample = self.samples[key]
        frames = np.array(sample["frames"], dtype=np.int64)
        clips = ShardClips(sample["shard"])
        clip = clips.read(key, frames, reference=sample["reference_frame"])
        assert clip.truth is not None
        truth = as_uint8(clip.truth, name=f"{key}: true frames")
        height, width = truth.shape[-2:]
        fps = float(Fraction(sample["fps"]))
        reference = as_uint8(clip.reference, name=f"{key}: reference")
        audio = clips.sound(key, frames, sample_rate=SAMPLE_RATE)
        digest = digest_given(frames, truth=truth, reference=reference, driving=clip.landmarks, audio=audio)
        facts = VideoFacts(key, len(frames), fps, width, height, digest)
        try:
            generated = read_clip(self.folder / sample["video"])
        except VideoError as error:
            return Reading(facts, frames, None, failure=str(error))
        if generated.shape != truth.shape:
            raise ValueError(
                f"{self.folder / sample['video']} has {list(generated.shape)}, the frames that it was driven "
                f"by have {list(truth.shape)}: generate it again"
            )
        trained = None
        if sample["train_span"] is not None and sample["train_span"][1] > 0:
            others = np.setdiff1d(clips.valid_frames(key, sample["train_span"]), frames)
            trained = clips.read(key, others) if len(others) else None
        material = Material(
            video=key,
            generated=generated,
            fps=fps,
            truth=truth,
            reference=reference,
            driving=clip.landmarks,
            audio=audio,
            frame_index=frames,
            train_frames=None if trained is None else trained.truth,
            train_landmarks=None if trained is None else trained.landmarks,
        )
        return Reading(facts, frames, material)

    def media(self, key: str, folder: Path) -> list[Media]:
        """What generate.py drew."""
        sample = self.samples[key]
        return [Media(self.folder / sample[kind], f"{key}: {PANEL}") for kind in ("panel", "sheet")]

    def _seen_in_training(self) -> str:
        """How many of the graded frames the weights were trained on, in words."""
        samples = self.samples.values()
        if any(sample["train_span"] is None for sample in samples):
            return "unknown"
        total = sum(len(sample["frames"]) for sample in samples)
        seen = sum(sample["frames_trained_on"] for sample in samples)
        return f"{seen} of {total}" if seen else "none"


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """Rows of a folder's samples.jsonl.

    Raises:
        ValueError: there is none, it is broken or empty, or it names files outside the folder.
    """
    path = folder / SAMPLES
    if not path.is_file():
        raise ValueError(
            f"no {SAMPLES} in {folder}: give the folder that generate.py wrote (its out=…), or for other "
            "files say real=… or pairs=… too"
        )
    try:
        samples = [json.loads(line) for line in path.read_text().splitlines()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: {error}; generate the clips again") from error
    if not samples:
        raise ValueError(f"{path} is empty: generate clips first")
    for number, sample in enumerate(samples, start=1):
        for kind in FILES:
            try:
                inside(folder, sample.get(kind, ""))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}, {kind}: {error}") from error
    return samples
