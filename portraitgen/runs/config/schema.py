"""The top level of every command's configuration: which keys there are and of what type.

Only this level is structured: a misspelt top-level key fails while Hydra composes. The groups below it are
plain YAML, whose `_target_` nodes `portraitgen.runs.config.check` compares with the real signatures: no
argument of any class is written down twice.
"""

import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig, OmegaConf

from portraitgen.runs.config.hydra_settings import check_compositions_of_hydra
from portraitgen.runs.config.systems import installed_configurations
from portraitgen.runs.config.yaml_files import CONF as CONF
from portraitgen.runs.config.yaml_files import check_files_of_hydra


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
    """Name of the run: its directory under paths.runs."""
    seed: int = 0
    deterministic: bool = False
    """Refuse operations that are not bit-exact from run to run."""
    allow_config_change: bool = False
    """Resume although settings that shape the result differ from the run's saved config.yaml."""
    plan: bool = False
    """Say what the run would need and take, and what to change if it does not fit; nothing is trained."""
    plan_accelerator: str = "a100_80gb"
    """Whose memory and speed count, a name in training/accelerators.py."""
    plan_utilisation: float = 0.4
    """Share of an accelerator's speed that is expected."""
    optimized_metric: Any = None
    """Column of metrics.csv whose last value the run returns, for a sweep to minimise or maximise; or two."""


@dataclass
class GenerateConfig:
    """What `generate.py` reads. Which of the inputs a system takes, its `inputs.py` says (`--help`)."""

    weights: str | None = None
    """A `weights/*.safetensors` of a run, which says which system generates, or `released:<system>`."""
    reference: Any = None
    """Photo of a person; a list: one of each of several people; a list of lists: several of each."""
    prompt: str | None = None
    """What is to be seen, in words."""
    negative_prompt: str | None = None
    """What is not to be seen, in words."""
    driving: str | None = None
    """What a face does: a video, a picture, or a landmark file (.npz)."""
    audio: str | None = None
    """What a face says: a sound, or a video with one."""
    layout: Any = None
    """Where each person is: for each a picture of a mask, or [x0,y0,x1,y1] in shares of width and height."""
    shards: Any = None
    """Path or patterns of prepared shards, whose clips are generated again."""
    span: list[float] = MISSING
    """Share of each clip of the shards that is generated."""
    limit: int | None = None
    """At most this many clips of the shards."""
    frames: int | None = None
    """At most this many frames of each clip of the shards, the first of its share."""
    requests: str | None = None
    """CSV or JSON Lines of many requests; a row gives the same keys."""
    share: list[int] | None = None
    """[i, n]: only every n-th row or clip, from the i-th on, counted from 0; null: all."""
    inputs: Any = MISSING
    """The system's own settings: see its `inputs.py`."""
    size: Any = None
    """Pixels of what is drawn, one number or [height, width]; null: as the system does it."""
    fps: float | None = None
    """Frames a second of what is written; null: as the system does it."""
    length: int | None = None
    """Frames of what is written; null: as the system does it, or until the sound ends."""
    num_samples: int = MISSING
    """Samples of each request; their seeds are `seed`, `seed` + 1 …."""
    out: str = MISSING
    """Folder for the results; or a file (.mp4, .gif, .webm, .png), beside whose folder it is written."""
    formats: list[str] = field(default_factory=list)
    """Formats of clips beside mp4: gif, webm, frames (PNG files)."""
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
    """Face backend that finds the faces of `reference` and `driving`."""
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

    system: str | None = None
    """Whose `kind` it is; null: the one that has it."""
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


def folder_name(text: str) -> str:
    """Overrides as a folder name: nothing leads elsewhere or needs quoting; long ones end in a checksum."""
    plain = re.sub(r"[^\w.,=+-]+", "-", text)
    return plain if len(plain) <= 200 else f"{plain[:191]}-{zlib.crc32(text.encode()):08x}"


def process_rank() -> int:
    """Rank of this process as torchrun, Lightning's launcher or SLURM put it into the environment; else 0.

    On the second and later nodes of Lightning's launcher, which does not say how many ranks a node has, it is
    no rank but another number than that of any other process.
    """
    if int(os.environ.get("NODE_RANK", 0)) > 0 and "RANK" not in os.environ:
        return 1000 * int(os.environ["NODE_RANK"]) + int(os.environ.get("LOCAL_RANK", 0))
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if variable in os.environ:
            return int(os.environ[variable])
    return 0


def _trial(overrides: Sequence[str]) -> str:
    from portraitgen.runs.train.trials import trial_overrides

    return trial_overrides([str(each) for each in overrides])


def _result_folder(out: str) -> str:
    from portraitgen.runs.generate.formats import result_folder

    return str(result_folder(out))


class InstalledConfigurations(SearchPathPlugin):
    """Hydra looks for groups also in the folders `conf` of systems that other packages bring."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for name, folder in installed_configurations().items():
            search_path.append(provider=name, path=f"file://{folder}")


def register_configs() -> None:
    """Make the schemas and the resolvers known to Hydra, which looks through what it reads from now on.

    May be called again.
    """
    check_files_of_hydra()
    check_compositions_of_hydra()
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="generate_schema", node=GenerateConfig)
    # A system's own settings: which there are, the weights file says, so any may be typed here.
    store.store(name="open_inputs", node=DictConfig({"inputs": DictConfig({}, flags={"struct": False})}))
    Plugins.instance().register(InstalledConfigurations)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="convert_schema", node=ConvertConfig)
    OmegaConf.register_new_resolver("folder", folder_name, replace=True)
    OmegaConf.register_new_resolver("trial", _trial, replace=True)
    OmegaConf.register_new_resolver("result_folder", _result_folder, replace=True)
    OmegaConf.register_new_resolver("rank", process_rank, replace=True)
    OmegaConf.register_new_resolver(
        "console_level", lambda: "ERROR" if process_rank() else "INFO", replace=True
    )
