"""The top level of every command's configuration: which keys there are and of what type.

Only this level is structured: a misspelt top-level key fails while Hydra composes. The groups below it are
plain YAML, whose `_target_` nodes `portraitgen.runs.config.check` compares with the real signatures: no
argument of any class is written down twice.
"""

import os
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

CONF = Path(__file__).resolve().parents[3] / "conf"
"""Folder of the Hydra groups, at the root of the checkout."""


@dataclass
class PathsConfig:
    """Where things lie on this machine; `conf/local/default.yaml` (not tracked) may change them."""

    runs: str = MISSING
    """Parent of every run directory."""
    models: str = MISSING
    """Pretrained weights that the user fetched."""


@dataclass
class TrainConfig:
    """What `train.py` reads."""

    model: Any = MISSING
    """The Generator: network, codec, objective, condition dropout."""
    data: Any = MISSING
    """The datamodule."""
    stage: Any = MISSING
    """What trains, and from which weights."""
    optimizer: Any = MISSING
    """Partial optimizer class."""
    lr_scheduler: Any = None
    """Partial learning-rate scheduler class, or null for a constant rate."""
    sampling: Any = MISSING
    """How pictures are drawn while training."""
    losses: Any = field(default_factory=dict)
    """Name → loss beside the objective's; null leaves one out. Weights files know none of them."""
    trainer: Any = MISSING
    """lightning.Trainer without callbacks and loggers."""
    strategy: Any = MISSING
    """How processes share the work: "auto" or a Lightning strategy."""
    callbacks: Any = field(default_factory=dict)
    """Name → callback; null leaves one out."""
    logger: Any = field(default_factory=dict)
    """Name → logger; null leaves one out."""
    paths: PathsConfig = field(default_factory=PathsConfig)
    name: str = MISSING
    """Name of the run: its directory under paths.runs and its id on W&B."""
    seed: int = 0
    deterministic: bool = False
    """Refuse operations that are not bit-exact from run to run."""
    allow_config_change: bool = False
    """Resume although settings that shape the result differ from the run's saved config.yaml."""
    optimized_metric: str | None = None
    """Column of metrics.csv whose last value the run returns, for a sweep to minimise or maximise."""


@dataclass
class GenerateConfig:
    """What `generate.py` reads."""

    mode: str = MISSING
    """video: generate clips; landmarks: only find the face of `driving` and write its landmarks."""
    weights: str | None = None
    """A `weights/*.safetensors` of a run; it says which system to build. mode=landmarks needs none."""
    shards: Any = None
    """Path or patterns of shards whose landmarks drive, with each clip's first frame as reference."""
    span: list[float] = MISSING
    """Share of each clip that is generated."""
    limit: int | None = None
    """At most this many clips of the shards."""
    reference: str | None = None
    """Photo of a face, instead of shards."""
    driving: str | None = None
    """What the photo's face does: a video, a picture, or a landmark file (.npz)."""
    audio: str | None = None
    """A sound, or a video with one, that the photo's face speaks."""
    speech: Any = MISSING
    """What turns `audio` into motion: weights, or a head motion to follow."""
    frame: str = MISSING
    """What is shown of the photo: face | crop | letterbox | aniportrait."""
    size: Any = None
    """Pixels of what is drawn, one number or [height, width]; null: as the weights were trained."""
    retarget: str = MISSING
    """How the photo's face follows the driving one: auto | 3d | 2d | none."""
    fps: float | None = None
    """Frames a second of what is written; null: those of what drives."""
    raw_points: bool | None = None
    """Draw MediaPipe's own points instead of corrected ones; null: as the weights know them."""
    out: str = MISSING
    """Folder for the results."""
    seed: int = MISSING
    deterministic: bool = False
    """Refuse operations that are not bit-exact from run to run."""
    device: str = MISSING
    """auto | cpu | cuda | cuda:0 …"""
    interpolation: Any = MISSING
    """`every`: each such frame is drawn; `between`: what makes the others."""
    precision: str = MISSING
    """Of the weights while generating: float32 | float16 | bfloat16."""
    sampling: Any = MISSING
    """Sampling settings other than those in the weights file; null keeps one."""
    model: Any = MISSING
    """Other settings in the weights file to change."""
    faces: Any = MISSING
    """Face backend that finds the landmarks of `reference` and `driving`."""
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class EvaluateConfig:
    """What `evaluate.py` reads."""

    generated: str = MISSING
    """A folder that generate.py wrote (with samples.jsonl), or with `real` or `pairs` one of any files."""
    real: str | None = None
    """Folder of the true files; without `pairs` those of the same names go together."""
    pairs: str | None = None
    """CSV with the columns generated, real, reference, audio, prompt: what is graded against what."""
    fps: float | None = None
    """Rate to bring pairs of videos to; null: they must agree."""
    resize: list[int] | None = None
    """[width, height] to bring the frames of pairs to; null: they must agree."""
    length: str = "exact"
    """Pairs must have one number of frames (exact), or the longer one is cut (shortest)."""
    out: str = MISSING
    """Folder for results.json, tables and the report."""
    title: str = MISSING
    """Heading of the report."""
    metrics: Any = MISSING
    """`graders`: name → what takes figures; `checks`: what the generated clips have to beat."""
    strict: bool = False
    """Missing weights of a grader are an error; otherwise its figures are reported as skipped."""
    show_by: str | None = None
    """Figure by which the best and worst videos are chosen; null: the first."""
    show_videos: int = MISSING
    """At most so many videos are shown in the report."""
    papers: list[str] = field(default_factory=list)
    """Tables of papers to print beside the figures, such as loopy/hdtf."""
    wandb: str | None = None
    """Project on W&B that gets the report too; null: none."""
    faces: Any = MISSING
    """Face backend that looks for faces in the generated frames."""
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class ConvertConfig:
    """What `convert.py` reads."""

    kind: str = MISSING
    """What `source` is, "published": give our weights in published names, or "lora": adapters, either way."""
    source: str = MISSING
    """File, folder or hub id."""
    out: str = MISSING
    """File, or for "published" a folder."""
    settings: list[str] = MISSING
    """Overrides of the experiment whose network is filled."""
    into: str | None = None
    """Of "lora": the experiment whose network gets the adapter; null: a file to start from."""
    paths: PathsConfig = field(default_factory=PathsConfig)


def slug(name: str) -> str:
    """A run's name as an id that W&B takes: plain, at most 128 characters; long ones end in a checksum."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-")
    return plain if len(plain) <= 128 else f"{plain[:119]}-{zlib.crc32(name.encode()):08x}"


def folder_name(text: str) -> str:
    """Overrides as a folder name: nothing leads elsewhere or needs quoting; long ones end in a checksum."""
    plain = re.sub(r"[^\w.,=+-]+", "-", text)
    return plain if len(plain) <= 200 else f"{plain[:191]}-{zlib.crc32(text.encode()):08x}"


def process_rank() -> int:
    """Rank of this process as torchrun, Lightning's launcher or SLURM put it into the environment; else 0."""
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if variable in os.environ:
            return int(os.environ[variable])
    return 0


def register_configs() -> None:
    """Make the schemas and the resolvers known to Hydra; may be called again."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="generate_schema", node=GenerateConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="convert_schema", node=ConvertConfig)
    OmegaConf.register_new_resolver("slug", slug, replace=True)
    OmegaConf.register_new_resolver("folder", folder_name, replace=True)
    OmegaConf.register_new_resolver("rank", process_rank, replace=True)
    OmegaConf.register_new_resolver(
        "console_level", lambda: "ERROR" if process_rank() else "INFO", replace=True
    )
