"""The clips that generate.py is asked for: prepared ones, or a photo and what moves it."""

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from portraitgen.faces.mediapipe import MediaPipeBackend
from portraitgen.nn.pose_guider import DRAWING_FACTOR
from portraitgen.runs.generate.driving.clip import DrivenClip
from portraitgen.runs.generate.driving.inputs import exact_rate
from portraitgen.runs.generate.driving.motion import read_motion, with_mesh
from portraitgen.runs.generate.driving.own_speech import CannotSpeak, driven_by_own_sound
from portraitgen.runs.generate.driving.photo import driven_by_face
from portraitgen.runs.generate.driving.reference import read_reference
from portraitgen.runs.generate.driving.shards import ShardClips
from portraitgen.runs.generate.driving.speech import driven_by_sound
from portraitgen.runs.generate.driving.speech_models import load_speech

log = logging.getLogger(__name__)


def chosen_clips(
    config: DictConfig, facts: Mapping[str, Any], *, factor: int, device: torch.device
) -> Iterator[DrivenClip]:
    """The clips that `config` (generate.yaml) asks for, one at a time.

    Args:
        facts: what the weights file says.
        factor: pixels of a latent's side.
        device: for the models that turn sound into motion.

    Raises:
        ValueError: what drives cannot be read, shows no face, or does not fit the weights.
    """
    if config.shards is None:
        yield _photo_clip(config, facts, size=_picture_size(config.size, facts, factor), device=device)
        return
    clips = ShardClips(config.shards if isinstance(config.shards, str) else list(config.shards))
    known = facts.get("landmark_scheme", clips.landmark_scheme)
    if clips.landmark_scheme != known:
        raise ValueError(
            f"weights={config.weights} draw faces from {known} landmarks, shards={config.shards} hold "
            f"{clips.landmark_scheme}: prepare them with the face backend of the weights' training data "
            "(prepare.py faces=…)"
        )
    frames = {key: clips.valid_frames(key, config.span) for key in clips.keys}
    chosen = [key for key in clips.keys if len(frames[key])]
    speech = None
    if config.speech.audio2mesh is not None:
        backend = instantiate(config.faces, _convert_="all")
        speech = load_speech(config.speech, backend, models=config.paths.models, device=device, raw=False)
    for key in chosen[: config.limit]:
        if speech is None:
            yield dataclasses.replace(clips.read(key, frames[key]), sound=clips.sound(key, frames[key]))
            continue
        try:
            spoken = driven_by_own_sound(clips, key, frames[key], speech)
        except CannotSpeak as error:
            log.warning("left out: %s", error)
            continue
        yield spoken


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
    if reference.landmarks.mesh is None and (raw or config.retarget == "3d"):
        setting = "raw_points=true" if raw else "retarget=3d"
        raise ValueError(f"{setting} needs MediaPipe's mesh: find the faces with faces=mediapipe")
    driving = Path(config.driving)
    motion = read_motion(driving, backend, fps=fps)
    return driven_by_face(reference, driving, motion, retarget=config.retarget, raw=raw)


def _picture_size(size: Any, facts: Mapping[str, Any], factor: int) -> tuple[int, int]:
    """(height, width) of what is drawn: as asked for, or as the network was trained.

    Raises:
        ValueError: the network or the video codec cannot have this size.
    """
    given = size
    if size is None:
        pose_size = facts["data"]["examples"]["pose_size"]
        sides = [pose_size] * 2 if isinstance(pose_size, int) else pose_size
        given = [side * factor // DRAWING_FACTOR for side in sides]
    sides = [given] * 2 if isinstance(given, int) else list(given)
    unit = math.lcm(factor, 2)
    if len(sides) != 2 or any(side < unit or side % unit for side in sides):
        raise ValueError(f"size={size}: give one number or [height,width], of multiples of {unit}")
    height, width = sides
    return height, width
