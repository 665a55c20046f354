"""A trained system, built again from what its weights file says of it."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from portraitgen.runs.config.check import ConfigError, find_problems
from portraitgen.runs.config.targets import MODEL_MODULES
from portraitgen.runs.pretrained import find_moved, library_bases, missing_models
from portraitgen.training.bases import load_trained, require_same_base, require_same_bases
from portraitgen.training.generator import Generator
from portraitgen.training.learner import Learner
from portraitgen.training.weights import load_weights

log = logging.getLogger(__name__)


def load_system(
    path: Path, *, changes: Mapping[str, Any], models: str, device: torch.device
) -> tuple[Generator, dict[str, Any]]:
    """The system of a run that draws pictures, as `load_learner` loads it.

    Raises:
        ValueError: also where the weights are of something else.
    """
    system, facts = load_learner(path, changes=changes, models=models, device=device)
    if not isinstance(system, Generator):
        raise ValueError(f"{path} holds {_what(system)}, which draws no pictures: give a stage's weights")
    return system, facts


def load_learner(
    path: Path, *, changes: Mapping[str, Any], models: str, device: torch.device
) -> tuple[Learner, dict[str, Any]]:
    """What a run trained, with its weights, in eval mode, and the facts that the file states.

    The settings inside the file may be anybody's, so they can only name classes that build models, and cannot
    read the environment.

    Args:
        path: a `weights/*.safetensors` of a run.
        models: folder of the pretrained weights on this machine.
        changes: settings to use instead of those in the file, such as {"sampling": {"num_steps": 50}}.

    Raises:
        ValueError: not a weights file of a run, or its settings are refused or do not fit the weights, or a
            pretrained model is not here or not the one of the run.
    """
    tensors, facts = load_weights(path)
    if not facts.get("config"):
        raise ValueError(
            f"{path} does not say what it belongs to: give a weights/*.safetensors that train.py wrote"
        )
    if "${" in json.dumps(facts["config"]):
        raise ValueError(f"{path}: its settings hold interpolations, which train.py never writes")
    config = OmegaConf.merge(OmegaConf.create(facts["config"]), changes)
    assert isinstance(config, DictConfig)
    named = facts.get("bases", {})
    find_moved(config, named, models=models)
    problems = find_problems(config, allowed=MODEL_MODULES) or [
        *missing_models(config, "model", models=models)
    ]
    if problems:
        raise ValueError(f"{path}: {ConfigError(problems)}")
    here = library_bases(config) if named else {}
    for part in named.keys() & here.keys():
        require_same_base(part, named[part], here[part], source=path)
    system = instantiate(config, _convert_="all")
    require_same_bases(system, facts, source=path)
    load_trained(system.network, tensors, source=path)
    log.info("%s: %s, step %s", path, facts["system"], facts["step"])
    return system.eval().requires_grad_(False).to(device), facts


def _what(system: Learner) -> str:
    return type(system.network).__name__


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the GPU if there is one.

    Raises:
        ValueError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={name}: {str(error).splitlines()[0]}") from error
