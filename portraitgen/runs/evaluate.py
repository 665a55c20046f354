"""Grade generated clips against the truth and against what any network has to beat."""

import json
import logging
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from portraitgen.faces.backend import FaceBackend
from portraitgen.media.decode import VideoError, read_video
from portraitgen.media.files import writable_folder
from portraitgen.metrics.grader import Grader, SetFigure, SetGrader
from portraitgen.metrics.grading import Material, grade
from portraitgen.metrics.page import Media
from portraitgen.metrics.report import write_report
from portraitgen.metrics.results import Protocol, aggregate
from portraitgen.metrics.scores import GENERATED, METHODS, Row
from portraitgen.metrics.tables import mark, terminal_table
from portraitgen.runs.check import check_config
from portraitgen.runs.driving.shards import ShardClips
from portraitgen.runs.generate import SAMPLES
from portraitgen.runs.graders import build_graders, check_names, figures_of
from portraitgen.runs.rundir import describe_commit, package_versions

log = logging.getLogger(__name__)

MAX_EMBEDDED = 8
"""Clips whose videos and sheets are embedded in the report."""


def evaluate(config: DictConfig) -> None:
    """Grade what generate.py wrote into `config.generated`; write the report into `config.out` and print it.

    Raises:
        ValueError: there is nothing to grade, or files that the samples name are missing or do not fit.
    """
    check_config(config)
    folder = Path(config.generated)
    samples = read_samples(folder)
    out = writable_folder(Path(config.out))
    checks = [instantiate(check) for check in config.metrics.checks]
    graders, skipped = build_graders(config.metrics.graders, strict=config.strict)
    metrics = figures_of(graders)
    check_names(checks, metrics, skipped)
    backend: FaceBackend = instantiate(config.faces, _convert_="all")
    rows: list[Row] = []
    for sample in samples:
        rows += _grade(folder, sample, graders, backend)
        log.info("graded %s", sample["key"])
    results = aggregate(
        rows,
        metrics=metrics,
        protocol=_protocol(folder, samples, graders, backend),
        sets=_set_figures(graders, rows),
        skipped=skipped,
        checks=checks,
    )
    media = [
        Media(folder / sample[kind], f"{sample['key']}: reference, driving landmarks, generated, truth")
        for sample in samples[:MAX_EMBEDDED]
        for kind in ("panel", "sheet")
    ]
    paths = write_report(results, out, title=config.title, media=media)
    console = Console()
    console.print(terminal_table(results, title=config.title))
    for verdict in results.verdicts:
        console.print(f"{mark(verdict.passed):>9}  {verdict.text}", highlight=False)
    for path in paths.values():
        console.print(str(path), highlight=False, soft_wrap=True)
    seen = results.protocol.settings["graded frames seen in training"]
    if seen != "none":
        log.warning("graded frames that were seen in training: %s. These are no figures of unseen data", seen)
    if results.passed is False:
        raise ValueError("a required check failed, see above (metrics.checks)")


def _seen_in_training(samples: Sequence[Mapping[str, Any]]) -> str:
    """How many of the graded frames the weights were trained on, in words."""
    if any(sample["train_span"] is None for sample in samples):
        return "unknown"
    total = sum(len(sample["frames"]) for sample in samples)
    seen = sum(sample["frames_trained_on"] for sample in samples)
    return f"{seen} of {total}" if seen else "none"


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """Rows of a folder's samples.jsonl.

    Raises:
        ValueError: there is none, or it is broken or empty.
    """
    path = folder / SAMPLES
    if not path.is_file():
        raise ValueError(f"no {SAMPLES} in {folder}: give the folder that generate.py wrote (its out=…)")
    try:
        samples = [json.loads(line) for line in path.read_text().splitlines()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: {error}; generate the clips again") from error
    if not samples:
        raise ValueError(f"{path} is empty: generate clips first")
    return samples


def _grade(
    folder: Path, sample: Mapping[str, Any], graders: Mapping[str, Grader], backend: FaceBackend
) -> list[Row]:
    key, frames = sample["key"], np.array(sample["frames"])
    if "shard" not in sample:
        raise ValueError(f"{key} was driven by another face, so there is no truth to grade it against")
    try:
        generated = torch.from_numpy(read_video(folder / sample["video"])).movedim(-1, 1)
    except VideoError as error:
        return [Row(key, GENERATED, frames, {}, failure=str(error))]
    clips = ShardClips(sample["shard"])
    clip = clips.read(key, frames)
    assert clip.truth is not None
    if generated.shape != clip.truth.shape:
        raise ValueError(
            f"{folder / sample['video']} has {list(generated.shape)}, the frames that it was driven by have "
            f"{list(clip.truth.shape)}: generate it again"
        )
    trained = None
    if sample["train_span"] is not None and sample["train_span"][1] > 0:
        others = np.setdiff1d(clips.valid_frames(key, sample["train_span"]), frames)
        trained = clips.read(key, others) if len(others) else None
    material = Material(
        video=key,
        generated=generated,
        fps=float(clip.fps),
        truth=clip.truth,
        reference=clip.reference,
        driving=clip.landmarks,
        frame_index=frames,
        train_frames=None if trained is None else trained.truth,
        train_landmarks=None if trained is None else trained.landmarks,
    )
    return grade(material, graders=graders, backend=backend)


def _set_figures(graders: Mapping[str, Grader], rows: Sequence[Row]) -> dict[str, dict[str, SetFigure]]:
    """Method -> figures of its set; all processes compute them in one order."""
    methods = [name for name in METHODS if any(row.method == name and row.failure is None for row in rows)]
    sets: dict[str, dict[str, SetFigure]] = {method: {} for method in methods}
    for grader in graders.values():
        if isinstance(grader, SetGrader):
            for method in methods:
                sets[method] |= grader.compute(method)
    return sets


def _protocol(
    folder: Path,
    samples: Sequence[Mapping[str, Any]],
    graders: Mapping[str, Grader],
    backend: FaceBackend,
) -> Protocol:
    first = samples[0]
    commit = describe_commit()
    height, width = read_video(folder / first["video"]).shape[1:3]
    return Protocol(
        fps=float(Fraction(first["fps"])),
        resolution=(width, height),
        backend=backend.name,
        min_face_score=backend.min_score,
        commit=f"{commit['commit'] or 'unknown'}{' (changed)' if commit['dirty'] else ''}",
        versions=package_versions(),
        settings={
            "system": first["system"],
            "weights": first["weights"],
            "step": first["step"],
            "trained at commit": first["commit"],
            "seed": first["seed"],
            "graded frames seen in training": _seen_in_training(samples),
            **first["sampling"],
        },
        graders={name: dict(grader.facts) for name, grader in graders.items() if grader.facts},
    )
