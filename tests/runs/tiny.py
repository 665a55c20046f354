"""Untrained weights of the tiny experiments, as train.py writes them: enough to run every command."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.system import load_learner
from portraitgen.training.learner import Learner
from portraitgen.training.weights import save_weights


def save_tiny(
    path: Path,
    *overrides: str,
    experiment: str = "aniportrait/tiny_stage1",
    shards: str = "none.tar",
    digests: Sequence[str | None] = (),
) -> Path:
    """Weights of `experiment` that were never trained; those of a stage are for pictures of 64 pixels.

    Args:
        overrides: of `experiment`.
        shards, digests: what they say that they were trained on, but for the last quarter of each clip.
    """
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"experiment={experiment}", f"data.shards={shards}", *overrides])
    if "num_steps" in config.model.sampling:
        config.model.sampling.num_steps = 1
    settings: Any = OmegaConf.to_container(config.model, resolve=True)
    torch.manual_seed(0)
    state = instantiate(settings["network"], _convert_="all").state_dict()
    save_weights(
        path,
        {name.replace(".base_layer.", "."): value for name, value in state.items()},  # without adapters
        config=settings,
        step=0,
        system=experiment.partition("/")[0],
        provenance={
            "commit": "abc",
            "dirty": False,
            "landmark_scheme": "ibug68",
            "data": {"shards": shards, "train_span": [0.0, 0.75], "examples": {"pose_size": 128}},
            "shards": list(digests),
        },
    )
    return path


def load_trained(path: Path) -> Learner:
    """What a run trained, on the CPU, as generate.py lends it to systems."""
    return load_learner(path, changes={}, models="models", device=torch.device("cpu"))[0]
