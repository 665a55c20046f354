"""Generate clips with trained weights, and write them where evaluate.py finds them."""

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from portraitgen.data.manifest import shard_digest
from portraitgen.media.files import replacing, writable_folder
from portraitgen.media.interpolation import key_positions
from portraitgen.runs.config.check import check_config
from portraitgen.runs.evaluate.sources.samples import SAMPLES
from portraitgen.runs.generate.clip_files import write_clip
from portraitgen.runs.generate.draw import draw_frames
from portraitgen.runs.generate.driving.choose import chosen_clips
from portraitgen.runs.generate.driving.clip import DrivenClip
from portraitgen.runs.generate.driving.inputs import check_inputs
from portraitgen.runs.generate.landmarks import find_landmarks
from portraitgen.runs.progress import progress
from portraitgen.runs.system import choose_device, load_system

log = logging.getLogger(__name__)


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
    for clip in chosen_clips(config, facts, factor=system.codec.factor, device=system.device):
        begin = time.perf_counter()
        with progress(f"{clip.key}: denoising") as on_step:
            positions = key_positions(len(clip.landmarks), config.interpolation.every)
            drawn = draw_frames(system, clip, positions, between, seed=config.seed, on_step=on_step)
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
