"""Generate clips with trained weights, and write them where evaluate.py finds them."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from portraitgen.data.manifest import shard_digest
from portraitgen.diffusion.noise import seeded_generators
from portraitgen.faces.drawing import draw_landmarks
from portraitgen.media.encode import write_video
from portraitgen.media.files import replacing, writable_folder
from portraitgen.media.yuv import rgb_to_uint8
from portraitgen.metrics.panels import contact_sheet, encode_png, panel_frames
from portraitgen.nn.pose_guider import DRAWING_FACTOR
from portraitgen.runs.check import check_config
from portraitgen.runs.driving.clip import DrivenClip
from portraitgen.runs.driving.inputs import check_inputs
from portraitgen.runs.driving.shards import ShardClips
from portraitgen.runs.driving.video import driven_by_video
from portraitgen.runs.landmarks import find_landmarks
from portraitgen.runs.sources.samples import SAMPLES
from portraitgen.runs.system import choose_device, load_system
from portraitgen.training.generator import Generator
from portraitgen.training.step_seed import stream_seed

log = logging.getLogger(__name__)

CRF = 10
"""H.264 quality of the generated clips. They are graded as they are written, so the codec must not show."""


def generate(config: DictConfig) -> None:
    """Write into `config.out` for each clip the clip itself, a comparison video and a contact sheet.

    `samples.jsonl` has a row for each, with all that it takes to grade it. With `mode=landmarks` nothing is
    generated: see `find_landmarks`.

    Raises:
        ValueError: a setting, the weights, or what drives cannot be used.
    """
    check_config(config)
    check_inputs(config)
    if config.mode == "landmarks":
        find_landmarks(config)
        return
    out = writable_folder(Path(config.out))
    system, facts = load_system(
        Path(config.weights),
        changes=_changes(config),
        models=config.paths.models,
        device=choose_device(config.device),
    )
    rows = []
    for clip in _clips(config, system, facts):
        begin = time.perf_counter()
        generated, pose = _draw(system, clip, seed=config.seed)
        files = _write(out, clip, generated, pose)
        rows.append({"key": clip.key, **files, **_row(config, clip, facts)})
        with replacing(out / SAMPLES) as temporary:
            temporary.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        seconds = time.perf_counter() - begin
        log.info("%s: %d frames in %.1f s: %s", clip.key, len(generated), seconds, out / files["panel"])
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
        backend = instantiate(config.faces, _convert_="all")
        size = facts["data"]["pose_size"] * system.codec.factor // DRAWING_FACTOR
        yield driven_by_video(Path(config.reference), Path(config.driving), backend=backend, size=size)
        return
    clips = ShardClips(config.shards if isinstance(config.shards, str) else list(config.shards))
    frames = {key: clips.valid_frames(key, config.span) for key in clips.keys}
    chosen = [key for key in clips.keys if len(frames[key])]
    for key in chosen[: config.limit]:
        yield clips.read(key, frames[key])


def _draw(system: Generator, clip: DrivenClip, *, seed: int) -> tuple[Tensor, Tensor]:
    """The generated frames [T, 3, H, W] and the landmark drawings [T, 3, Hp, Wp], in [-1, 1] on the CPU."""
    height, width = clip.reference.shape[-2:]
    canvas = (DRAWING_FACTOR * height // system.codec.factor, DRAWING_FACTOR * width // system.codec.factor)
    drawn = draw_landmarks(clip.landmarks, image_size=(height, width), canvas_size=canvas, scheme=clip.scheme)
    pose = torch.from_numpy(drawn) / 127.5 - 1
    batch = {
        "key": [clip.key],
        "reference": clip.reference[None].to(system.device),
        "pose": pose[None].to(system.device),
    }
    noise = seeded_generators([stream_seed(seed, clip.key)])
    with torch.no_grad():
        return system.sample(batch, generator=noise)[0].float().cpu(), pose


def _write(out: Path, clip: DrivenClip, generated: Tensor, pose: Tensor) -> dict[str, str]:
    """The files of one clip; returns their names within `out`."""
    files = {
        "video": f"generated/{clip.key}.mp4",
        "panel": f"panels/{clip.key}.mp4",
        "sheet": f"sheets/{clip.key}.png",
    }
    for name in files.values():
        (out / name).parent.mkdir(exist_ok=True)
    columns = {"reference": clip.reference, "driving landmarks": pose, "generated": generated}
    if clip.truth is not None:
        columns["truth"] = clip.truth
    frames = rgb_to_uint8(generated).movedim(1, -1).numpy()
    write_video(out / files["video"], frames, fps=clip.fps, crf=CRF)
    write_video(out / files["panel"], panel_frames(columns), fps=clip.fps)
    with replacing(out / files["sheet"]) as temporary:
        temporary.write_bytes(encode_png(contact_sheet(columns, frame_index=clip.frames)))
    return files


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
        "sampling": {name: value for name, value in config.sampling.items() if value is not None},
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
