"""Generate clips with trained weights, and write them where evaluate.py finds them."""

import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from portraitgen.data.manifest import shard_digest
from portraitgen.diffusion.frames import FramesOnDemand
from portraitgen.diffusion.noise import seeded_generators
from portraitgen.faces.drawing import draw_landmarks
from portraitgen.faces.mediapipe import MediaPipeBackend
from portraitgen.media.files import replacing, writable_folder
from portraitgen.media.interpolation import Between, fill_between, key_positions
from portraitgen.nn.pose_guider import DRAWING_FACTOR
from portraitgen.runs.check import check_config
from portraitgen.runs.clip_files import write_clip
from portraitgen.runs.driving.clip import DrivenClip
from portraitgen.runs.driving.inputs import check_inputs, exact_rate
from portraitgen.runs.driving.motion import read_motion, with_mesh
from portraitgen.runs.driving.photo import driven_by_face
from portraitgen.runs.driving.reference import read_reference
from portraitgen.runs.driving.shards import ShardClips
from portraitgen.runs.driving.speech import driven_by_sound
from portraitgen.runs.driving.speech_models import load_speech
from portraitgen.runs.landmarks import find_landmarks
from portraitgen.runs.progress import progress
from portraitgen.runs.sources.samples import SAMPLES
from portraitgen.runs.system import choose_device, load_system
from portraitgen.training.generator import Generator
from portraitgen.training.step_seed import stream_seed

log = logging.getLogger(__name__)

CHUNK_FRAMES = 8
"""Frames that are written at once."""


def generate(config: DictConfig) -> None:
    """Write into `config.out` for each clip the clip itself, a comparison video and a contact sheet.

    `samples.jsonl` has a row for each, with all that it takes to grade it. With `mode=landmarks` nothing is
    generated: see `find_landmarks`.

    Raises:
        ValueError: a setting, the weights, or what drives cannot be used.
    """
    check_config(config)
    check_inputs(config)
    between = instantiate(config.interpolation.between, _convert_="all")
    if config.interpolation.every > 1 and between is None:
        raise ValueError("interpolation.every is above 1: say what makes the others (interpolation=flow)")
    if config.mode == "landmarks":
        find_landmarks(config)
        return
    out = writable_folder(Path(config.out))
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
        torch.use_deterministic_algorithms(True)
    system, facts = load_system(
        Path(config.weights),
        changes=_changes(config),
        models=config.paths.models,
        device=choose_device(config.device),
    )
    system.cast(getattr(torch, config.precision))
    rows = []
    for clip in _clips(config, system, facts):
        begin = time.perf_counter()
        with progress(f"{clip.key}: denoising") as on_step:
            positions = key_positions(len(clip.landmarks), config.interpolation.every)
            drawn = _draw(system, clip, positions, between, seed=config.seed, on_step=on_step)
            files = write_clip(out, clip, drawn)
        rows.append({"key": clip.key, **files, **_row(config, clip, facts)})
        with replacing(out / SAMPLES) as temporary:
            temporary.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        seconds = time.perf_counter() - begin
        log.info("%s: %d frame(s) in %.1f s: %s", clip.key, len(clip.frames), seconds, out / files["video"])
    if not rows:
        raise ValueError(f"no clip of {config.shards} shows a face within {list(config.span)} of its frames")
    log.info("%d clip(s) listed in %s", len(rows), out / SAMPLES)


def _changes(config: DictConfig) -> dict[str, Any]:
    """Settings that replace those in the weights file: `model`, and those of `sampling` that are not null."""
    sampling = {name: value for name, value in config.sampling.items() if value is not None}
    changes = OmegaConf.to_container(OmegaConf.merge({"sampling": sampling}, config.model), resolve=True)
    assert isinstance(changes, dict)
    return {str(name): value for name, value in changes.items()}


def _clips(config: DictConfig, system: Generator, facts: Mapping[str, Any]) -> Iterator[DrivenClip]:
    if config.shards is None:
        size = _picture_size(config.size, system, facts)
        yield _photo_clip(config, facts, size=size, device=system.device)
        return
    clips = ShardClips(config.shards if isinstance(config.shards, str) else list(config.shards))
    frames = {key: clips.valid_frames(key, config.span) for key in clips.keys}
    chosen = [key for key in clips.keys if len(frames[key])]
    for key in chosen[: config.limit]:
        yield dataclasses.replace(clips.read(key, frames[key]), sound=clips.sound(key, frames[key]))


def _photo_clip(
    config: DictConfig, facts: Mapping[str, Any], *, size: tuple[int, int], device: torch.device
) -> DrivenClip:
    """The clip that brings the photo `config.reference` to life, for weights with these `facts`."""
    backend = with_mesh(instantiate(config.faces, _convert_="all"))
    known = facts.get("landmark_scheme", backend.landmark_scheme)
    if backend.landmark_scheme != known:
        raise ValueError(
            f"weights={config.weights} draw faces from {known} landmarks, faces={backend.name} finds "
            f"{backend.landmark_scheme}: choose the face backend of their training data"
        )
    fps, raw = exact_rate(config.fps), config.raw_points
    if raw is None:  # the released weights were trained on what MediaPipe says
        raw = "converted_from" in facts and isinstance(backend, MediaPipeBackend)
    reference = read_reference(Path(config.reference), backend, size=size, frame=config.frame)
    if config.audio is not None:
        speech = load_speech(config.speech, backend, models=config.paths.models, device=device, raw=raw)
        return driven_by_sound(reference, Path(config.audio), speech, fps=fps, raw=raw, seed=config.seed)
    driving = Path(config.driving)
    motion = read_motion(driving, backend, fps=fps)
    return driven_by_face(reference, driving, motion, retarget=config.retarget, raw=raw)


def _picture_size(size: Any, system: Generator, facts: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of what is drawn: as asked for, or as the network was trained.

    Raises:
        ValueError: the network or the video codec cannot have this size.
    """
    given = size
    if size is None:
        pose_size = facts["data"]["pose_size"]
        sides = [pose_size] * 2 if isinstance(pose_size, int) else pose_size
        given = [side * system.codec.factor // DRAWING_FACTOR for side in sides]
    height, width = [given] * 2 if isinstance(given, int) else given
    unit = math.lcm(system.codec.factor, 2)
    if min(height, width) < unit or height % unit or width % unit:
        raise ValueError(f"size={size}: height and width must be multiples of {unit}")
    return height, width


def _draw(
    system: Generator,
    clip: DrivenClip,
    positions: Sequence[int],
    between: Between | None,
    *,
    seed: int,
    on_step: Callable[[int, int], None],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Generated frames [n, 3, H, W] and landmark drawings [n, 3, Hp, Wp], chunk by chunk, in [-1, 1].

    Args:
        positions: frames that the system draws, the first and the last among them.
        between: makes the others; None: there are no others.
    """
    height, width = clip.reference.shape[-2:]
    canvas = (DRAWING_FACTOR * height // system.codec.factor, DRAWING_FACTOR * width // system.codec.factor)

    def drawings(frames: Sequence[int]) -> Tensor:
        drawn = draw_landmarks(
            clip.landmarks[list(frames)], image_size=(height, width), canvas_size=canvas, scheme=clip.scheme
        )
        return torch.from_numpy(drawn) / 127.5 - 1

    batch = {
        "key": [clip.key],
        "reference": clip.reference[None].to(system.device),
        "pose": FramesOnDemand(len(positions), lambda keys: drawings([positions[key] for key in keys])[None]),
    }
    noise = seeded_generators([stream_seed(seed, clip.key)])
    chunks = system.stream(batch, generator=noise, on_step=on_step)
    frames = (frame for chunk in chunks for frame in chunk[0].float())
    filled = frames if between is None else fill_between(frames, positions, between)
    done = 0
    while group := list(islice(filled, CHUNK_FRAMES)):
        yield torch.stack(group).cpu(), drawings(range(done, done + len(group)))
        done += len(group)


def _row(config: DictConfig, clip: DrivenClip, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What samples.jsonl says of a clip beside its files."""
    span = _train_span(clip, facts)
    low, high = (round(share * clip.source.get("num_frames", 0)) for share in span or (0, 0))
    return {
        "fps": str(clip.fps),
        "frames": clip.frames.tolist(),
        **clip.source,
        "train_span": span,
        "frames_trained_on": int(((clip.frames >= low) & (clip.frames < high)).sum()),
        "system": facts["system"],
        "weights": str(config.weights),
        "step": facts["step"],
        "commit": facts["commit"],
        "seed": config.seed,
        "precision": config.precision,
        "sampling": {name: value for name, value in config.sampling.items() if value is not None},
        "interpolation": OmegaConf.to_container(config.interpolation, resolve=True),
    }


def _train_span(clip: DrivenClip, facts: Mapping[str, Any]) -> list[float] | None:
    """The share of this clip that the weights were trained on, [0, 0] if none; None if that is not known.

    Shards are told apart by the digest in their manifests, so that moved or copied data are recognised.
    """
    if "shard" not in clip.source:
        return [0.0, 0.0]
    digest = shard_digest(Path(clip.source["shard"]))
    trained_on = facts.get("shards", [None])
    if digest is None or None in trained_on:
        return None
    return list(facts["data"]["train_span"]) if digest in trained_on else [0.0, 0.0]
