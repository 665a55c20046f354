"""A trained system, built again from what its weights file says of it."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from portraitgen.runs.claims import oversized, require_fits_file
from portraitgen.runs.config.check import ConfigError, find_problems
from portraitgen.runs.config.systems import system_of
from portraitgen.runs.config.targets import MODEL_TARGETS, resolve_target
from portraitgen.runs.pretrained import find_moved, foreign_models, library_bases, missing_models
from portraitgen.training.bases import load_trained, require_same_base, require_same_bases
from portraitgen.training.generator import Generator
from portraitgen.training.learner import Learner
from portraitgen.training.weights import load_facts, load_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Description:
    """What a weights file says of its system, checked; no weights are read.

    Attributes:
        path: of the file.
        facts: all that it states.
        config: the settings of the system, with what was changed.
        system: its name.
        cls: its class.
    """

    path: Path
    facts: dict[str, Any]
    config: DictConfig
    system: str
    cls: type[Learner]

    def require_generator(self) -> None:
        """ValueError unless it draws pictures."""
        if not issubclass(self.cls, Generator):
            raise ValueError(
                f"{self.path} holds {self.cls.__name__}, which draws no pictures: give a stage's weights"
            )


def describe_system(path: Path, *, changes: Mapping[str, Any], models: str) -> Description:
    """What `path` says of its system.

    The settings inside the file may be anybody's, so they can only name classes that build models, and cannot
    read the environment.

    Args:
        path: a `weights/*.safetensors` of a run.
        changes: settings to use instead of those in the file, such as {"sampling": {"num_steps": 50}}.
        models: folder of the pretrained weights on this machine.

    Raises:
        ValueError: not a weights file of a run, or its settings are refused.
    """
    facts = load_facts(path)
    config = checked_settings(path, facts, changes=changes, models=models)
    problems = [*missing_models(config, "model", models=models)]
    if problems:
        raise ValueError(f"{path}: {ConfigError(problems)}")
    target: Any = resolve_target(str(config.get("_target_")), MODEL_TARGETS)
    system = system_of(target.__module__)
    if system is None or not (isinstance(target, type) and issubclass(target, Learner)):
        raise ValueError(f"{path}: {config.get('_target_')} is the class of no system")
    return Description(path, facts, config, system, target)


def checked_settings(
    path: Path,
    facts: Mapping[str, Any],
    *,
    changes: Mapping[str, Any] | None = None,
    models: str | None = None,
) -> DictConfig:
    """The settings of a weights file, some of them changed: they name nothing but classes that build models.

    Args:
        models: folder of the pretrained weights, where models of another machine are looked for.

    Raises:
        ValueError: there are none, or they are refused.
    """
    if not facts.get("config"):
        raise ValueError(
            f"{path} does not name the model that it holds: give a weights/*.safetensors that train.py or "
            "convert.py wrote"
        )
    if "${" in json.dumps(facts["config"]):
        raise ValueError(f"{path}: its settings hold interpolations, which train.py never writes")
    try:
        config = OmegaConf.merge(OmegaConf.create(facts["config"]), changes or {})
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: its settings are damaged ({str(error).splitlines()[0]})") from error
    assert isinstance(config, DictConfig)
    if models is not None:
        find_moved(config, facts.get("bases", {}), models=models)
    problems = [*oversized(config)] or [*find_problems(config, allowed=MODEL_TARGETS)]
    if models is not None and not problems:
        problems += foreign_models(config, facts["config"], "model", models=models)
    if problems:
        raise ValueError(f"{path}: {ConfigError(problems)}")
    return config


def load_system(
    path: Path, *, changes: Mapping[str, Any], models: str, device: torch.device
) -> tuple[Generator, dict[str, Any]]:
    """The system of a run that draws pictures, as `load_learner` loads it.

    Raises:
        ValueError: also where the weights are of something else.
    """
    described = describe_system(path, changes=changes, models=models)
    described.require_generator()
    system = build(described, device=device)
    assert isinstance(system, Generator)
    return system, described.facts


def load_learner(
    path: Path, *, changes: Mapping[str, Any], models: str, device: torch.device
) -> tuple[Learner, dict[str, Any]]:
    """What a run trained, with its weights, in eval mode, and the facts that the file states.

    Args:
        path, changes, models: see `describe_system`.

    Raises:
        ValueError: as `describe_system` and `build`.
    """
    described = describe_system(path, changes=changes, models=models)
    return build(described, device=device), described.facts


def build(described: Description, *, device: torch.device) -> Learner:
    """The system with its weights, in eval mode.

    Raises:
        ValueError: the weights do not fit the settings, or a pretrained model is not the one of the run.
    """
    path, facts = described.path, described.facts
    named = facts.get("bases", {})
    here = library_bases(described.config) if named else {}
    for part in named.keys() & here.keys():
        require_same_base(part, named[part], here[part], source=path)
    tensors, _ = load_weights(path)
    require_fits_file(described.config, path)
    try:
        system: Learner = instantiate(described.config, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, RuntimeError | MemoryError | OverflowError):
            raise ValueError(f"{path}: its settings cannot be built ({error.__cause__})") from error
        raise
    require_same_bases(system, facts, source=path)
    load_trained(system.network, tensors, source=path)
    log.info("%s: %s, step %s", described.path, described.system, described.facts["step"])
    return system.eval().requires_grad_(False).to(device)


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
