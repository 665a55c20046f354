"""What generate.py is given to drive clips with must go together and be there, before anything is loaded."""

from fractions import Fraction
from pathlib import Path
from typing import get_args

from omegaconf import DictConfig

from portraitgen.data.catalog import find_shards
from portraitgen.faces.transfer import Transfer
from portraitgen.runs.driving.reference import Frame

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
    if config.mode == "landmarks":
        if config.driving is None or config.reference is not None or config.shards is not None:
            raise ValueError("mode=landmarks looks for one face: give driving=<video or picture>, no more")
    elif (config.shards is None) == (config.reference is None or config.driving is None):
        raise ValueError("say what drives: either shards=…, or reference=<photo> and driving=<video>")
    elif config.weights is None:
        raise ValueError("give weights=<a weights/*.safetensors of a run>: they draw the video")
    if len(config.span) != 2 or not 0 <= config.span[0] < config.span[1] <= 1:
        raise ValueError(f"span={list(config.span)}: give a share of each clip, such as [0.75,1.0]")
    if config.shards is not None:
        find_shards(config.shards if isinstance(config.shards, str) else list(config.shards))
    for key in ("weights", "reference", "driving"):
        if config[key] is not None and not Path(config[key]).is_file():
            raise ValueError(f"{key}={config[key]}: no such file")


def exact_rate(fps: float | None) -> Fraction | None:
    """Frames a second as a fraction, 29.97 as 2997/100; None stays None."""
    return None if fps is None else Fraction(fps).limit_denominator(100_000)
