"""Which classes a configuration may name in `_target_`, and what arguments they take.

Configurations come from other people too (experiments, weights files), so a target must be on the list of
`configurable`, by where it is *defined*: `os.system` is refused before anything is imported, and so is
`torch.nn.os.system`, which only looks allowed.

Packages that are installed beside portraitgen can bring systems: the entry points of the group
`portraitgen.systems` in their metadata (`mine = "my_package.mine"`) are allowed too. Only what somebody
installed on this machine counts, never what a file says.
"""

import difflib
import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from portraitgen.runs.config.configurable import (
    COMMAND_KINDS,
    FACTORIES,
    FACTORY_ARGUMENTS,
    MODEL_KINDS,
    OWN_COMMAND,
    OWN_MODEL,
)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What `_target_` may name, see `configurable`.

    own      names and `package.*` of portraitgen
    kinds    of other libraries, by package
    """

    own: tuple[str, ...]
    kinds: Mapping[str, str]


MODEL_TARGETS = Allowed(OWN_MODEL, MODEL_KINDS)
"""What the model settings inside a weights file may name."""

COMMAND_TARGETS = Allowed(OWN_COMMAND, COMMAND_KINDS)
"""What the configuration of a command may name."""

SYSTEMS_GROUP = "portraitgen.systems"
"""Entry points of this group name packages of systems: their name -> the package."""

BUILT_IN = "portraitgen.systems"
"""The package of our own systems, one folder each."""

FORWARDED = {
    "lightning.pytorch.strategies.ddp.DDPStrategy": "torch.nn.parallel.DistributedDataParallel",
    "lightning.pytorch.strategies.fsdp.FSDPStrategy": "torch.distributed.fsdp.FullyShardedDataParallel",
    "lightning.pytorch.loggers.wandb.WandbLogger": "wandb.init",
    "portraitgen.training.wandb_log.WandbLog": "wandb.init",
}
"""Class that hands its **kwargs on → to what: a typo in those would only come out minutes later."""


@functools.cache
def installed_systems() -> dict[str, str]:
    """Name of each system that another installed package brings -> its package; nothing is imported."""
    found = importlib.metadata.entry_points(group=SYSTEMS_GROUP)
    return {each.name: each.module for each in sorted(found, key=lambda each: each.name)}


def resolve_target(name: str, allowed: Allowed = COMMAND_TARGETS) -> Callable[..., Any]:
    """The class or function that `_target_: name` names, imported.

    Raises:
        ValueError: it is none that a configuration may name, or it cannot be imported.
    """
    packages = sorted({"portraitgen", *(each.split(".")[0] for each in (*allowed.kinds, *_systems()))})
    parts = name.split(".")
    if len(parts) < 2 or parts[0] not in packages or not all(map(_is_public, parts)):
        raise ValueError(f"{name!r} is not in an allowed package ({', '.join(packages)})")
    target: Any = importlib.import_module(parts[0])
    for depth, part in enumerate(parts[1:], start=1):
        owner = ".".join(parts[:depth])
        try:
            target = _member(target, part, owner)
        except ImportError as error:
            raise ValueError(f"{name!r} cannot be imported: {error}") from error
        except AttributeError:
            members = [member for member in dir(target) if not member.startswith("_")]
            raise ValueError(f"{owner!r} has no {part!r}{did_you_mean(part, members)}") from None
    if not _is_allowed(target, allowed):
        raise ValueError(f"{name!r} is not a class or function that a configuration may name here")
    return target  # type: ignore[no-any-return]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the candidate nearest to `name`, or nothing."""
    close = difflib.get_close_matches(name, list(candidates), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def argument_names(target: Callable[..., Any]) -> list[str] | None:
    """Names that `target` takes as keyword arguments; None if it takes any."""
    parameters = inspect.signature(target).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        return names
    if _is_factory(target):
        return sorted(FACTORY_ARGUMENTS)
    forwarded = FORWARDED.get(f"{target.__module__}.{target.__qualname__}")
    if forwarded is None:
        return None
    module, _, attribute = forwarded.rpartition(".")
    return names + (argument_names(getattr(importlib.import_module(module), attribute)) or [])


def _member(owner: Any, name: str, path: str) -> Any:
    """Attribute `name` of `owner`, which is imported if it is a submodule."""
    try:
        return getattr(owner, name)
    except AttributeError:
        if not inspect.ismodule(owner):
            raise
    try:
        return importlib.import_module(f"{path}.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"{path}.{name}":
            raise AttributeError(name) from error
        raise


def _is_public(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_")


def _systems() -> tuple[str, ...]:
    return (BUILT_IN, *installed_systems().values())


def _is_factory(target: Any) -> bool:
    """Whether it is a class method, `from_pretrained`, that may be named beside its class."""
    return inspect.ismethod(target) and inspect.isclass(target.__self__) and target.__name__ in FACTORIES


def _is_allowed(target: Any, allowed: Allowed) -> bool:
    """Whether it is on the list, by where it is defined, wherever it was found."""
    if _is_factory(target):
        target = target.__self__
    if not (inspect.isclass(target) or inspect.isfunction(target)):
        return False
    module = str(target.__module__)
    name = f"{module}.{target.__qualname__}"
    if _is_under(module, _systems()):
        return inspect.isclass(target) or name in _functions_of_systems(module)
    if name in allowed.own:
        return True
    if not inspect.isclass(target):
        return False
    if _is_under(module, [each[:-2] for each in allowed.own if each.endswith(".*")]):
        return True
    bases = {f"{base.__module__}.{base.__qualname__}" for base in inspect.getmro(target)} | {"object"}
    return any(_is_under(module, [package]) and kind in bases for package, kind in allowed.kinds.items())


def _functions_of_systems(module: str) -> set[str]:
    """Full names of the functions that the packages above `module` list in CONFIGURABLE."""
    parents = module.split(".")
    packages = [".".join(parents[:depth]) for depth in range(1, len(parents))]
    found = {package: getattr(importlib.import_module(package), "CONFIGURABLE", ()) for package in packages}
    return {f"{package}.{name}" for package, names in found.items() for name in names}


def _is_under(module: str, packages: Iterable[str]) -> bool:
    return f"{module}.".startswith(tuple(f"{package}." for package in packages))
