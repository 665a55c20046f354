"""Settings of the smallest Loopy network that has all its parts, and networks that have left their start."""

from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from portraitgen.diffusion.conditions import ConditionDropout
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.systems.loopy.module import Loopy
from portraitgen.systems.loopy.network import LoopyNetwork

UNET: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}
TEMPORAL: dict[str, Any] = {"clip_frames": 3, "motion_frames": 4, "num_attention_heads": 2}
AUDIO: dict[str, Any] = {
    "window": 5,
    "layers": 2,
    "width": 6,
    "num_tokens": 3,
    "hidden_dim": 8,
    "num_attention_heads": 2,
}
MOTION_LATENTS: dict[str, Any] = {"num_landmarks": 5, "num_embeddings": 4, "dim": 8, "heads": 2}
STAGE_2 = {"temporal": TEMPORAL, "audio": AUDIO, "motion_latents": MOTION_LATENTS}


def fresh(**changes: Any) -> LoopyNetwork:
    """As built: of stage 2 unless `changes` say otherwise."""
    torch.manual_seed(0)
    return LoopyNetwork(**{"denoising_unet": UNET, "reference_unet": UNET, **STAGE_2, **changes})


def stage1() -> LoopyNetwork:
    return fresh(temporal=None, audio=None, motion_latents=None)


def moved(**changes: Any) -> LoopyNetwork:
    """None of its projections is zero any more."""
    network = fresh(**changes)
    leave_start(network)
    return network


def learner(experiment: str, *overrides: str, as_built: bool = False) -> Loopy:
    """The model of an experiment as train.py builds it; unless `as_built` no projection is zero any more."""
    torch.manual_seed(0)
    built: Loopy = instantiate(settings(experiment, *overrides).model, _convert_="all")
    if not as_built:
        leave_start(built.network)
    return built


def leave_start(network: nn.Module) -> None:
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)


def settings(experiment: str, *overrides: str) -> Any:
    """The configuration of an experiment of train.py."""
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [f"experiment={experiment}", "data.shards=none.tar", *overrides])


def dropout(table: Any) -> ConditionDropout:
    return ConditionDropout(OmegaConf.to_container(table))
