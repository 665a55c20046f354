"""What generate.py is given to drive clips with must go together and be there, before anything is loaded."""

from fractions import Fraction
from pathlib import Path
from typing import get_args

from omegaconf import DictConfig

from portraitgen.data.catalog import find_shards
from portraitgen.faces.transfer import Transfer
from portraitgen.runs.generate.driving.reference import Frame
from portraitgen.runs.generate.driving.speech_models import SOURCES

CHOICES: dict[str, tuple[str, ...]] = {
    "mode": ("video", "landmarks"),
    "frame": get_args(Frame),
    "retarget": (*get_args(Transfer), "none"),
    "precision": ("float32", "float16", "bfloat16"),
}


def check_inputs(config: DictConfig) -> None:
    """Raise a ValueError that names the first input that is missing, superfluous or not there."""
    for key, choices in CHOICES.items():
        if config[key] not in choices:
            raise ValueError(f"{key}={config[key]}: choose one of {', '.join(choices)}")
    if config.fps is not None and config.fps <= 0:
        raise ValueError(f"fps={config.fps}: give frames a second, or null for those of what drives")
    if config.limit is not None and config.limit < 1:
        raise ValueError(f"limit={config.limit}: give a number of clips, or null for all")
    if config.mode == "landmarks":
        if config.driving is None or any(config[key] is not None for key in ("reference", "shards", "audio")):
            raise ValueError("mode=landmarks looks for one face: give driving=<video or picture>, no more")
    else:
        _check_drivers(config)
    if len(config.span) != 2 or not 0 <= config.span[0] < config.span[1] <= 1:
        raise ValueError(f"span={list(config.span)}: give a share of each clip, such as [0.75,1.0]")
    if config.shards is not None:
        find_shards(config.shards if isinstance(config.shards, str) else list(config.shards))
    files = {key: config[key] for key in ("weights", "reference", "driving", "audio")}
    if config.audio is not None or config.shards is not None:
        files |= {f"speech.{key}": config.speech[key] for key in ("audio2mesh", "audio2pose", "head")}
    for key, path in files.items():
        if path is not None and not Path(path).is_file():
            source = f": {SOURCES.format(name=key[7:])}" if key.startswith("speech.audio2") else ""
            raise ValueError(f"{key}={path}: no such file{source}")


def _check_drivers(config: DictConfig) -> None:
    """One thing drives, and what it needs is given."""
    if config.weights is None:
        raise ValueError("give weights=<a weights/*.safetensors of a run>: they draw the video")
    given = [key for key in ("shards", "driving", "audio") if config[key] is not None]
    if len(given) != 1 or (config.reference is None) != (given == ["shards"]):
        raise ValueError(
            "say what drives: either shards=…, or reference=<photo> and one of driving=<video, picture or "
            "landmarks> and audio=<sound>"
        )
    if config.speech.shift_s and (config.shards is None or config.speech.audio2mesh is None):
        raise ValueError(
            "speech.shift_s is for prepared clips that speak their own sound: give shards=… and "
            "speech.audio2mesh=…"
        )
    if config.shards is not None:
        for key in ("size", "fps", "raw_points"):
            if config[key] is not None:
                raise ValueError(f"{key}={config[key]}: prepared clips are drawn as they are; leave it out")
        for key in ("audio2pose", "head", "identity"):
            if config.speech[key] is not None:
                raise ValueError(f"speech.{key}: the heads of prepared clips move as they did; leave it out")
        return
    if config.audio is None:
        for key in ("audio2mesh", "audio2pose", "head", "identity"):
            if config.speech[key] is not None:
                raise ValueError(f"speech.{key}: nothing speaks here; give audio=… instead of driving=…")
        return
    if config.speech.audio2pose is None and config.speech.identity is not None:
        raise ValueError("speech.identity is a manner of moving of speech.audio2pose: give that, too")
    if config.speech.audio2mesh is None:
        raise ValueError(f"audio=… needs speech.audio2mesh=<weights>: {SOURCES.format(name='audio2mesh')}")
    if config.speech.audio2pose is not None and config.speech.head is not None:
        raise ValueError("speech.audio2pose and speech.head both move the head: give one of them")


def exact_rate(fps: float | None) -> Fraction | None:
    """Frames a second as a fraction, 29.97 as 2997/100; None stays None."""
    return None if fps is None else Fraction(fps).limit_denominator(100_000)
