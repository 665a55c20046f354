"""Which classes a configuration may name in `_target_`, and what arguments they take.

Configurations come from other people too (inside weights files), so a target must be *defined* in an allowed
module: `os.system` is refused before anything is imported, `torch.nn.os.system` too: it only looks allowed.

Packages that are installed beside portraitgen can bring systems: the entry points of the group
`portraitgen.systems` in their metadata (`mine = "my_package.mine"`) are allowed too. Only what somebody
installed on this machine counts, never what a file says.
"""

import difflib
import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable
from typing import Any

MODEL_MODULES = (
    "portraitgen.systems",
    "portraitgen.nn",
    "portraitgen.diffusion",
    "portraitgen.faces.recognition",
    "portraitgen.training.optim",
    "torch.nn",
    "torch.optim",
    "diffusers.models",
    "diffusers.schedulers",
    "transformers.models",
)
"""What the model settings inside a weights file may name."""

COMMAND_MODULES = (
    *MODEL_MODULES,
    "portraitgen",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.plugins",
    "lightning.fabric.plugins.environments",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "lightning.pytorch.trainer",
    "torchmetrics",
    "peft",
)
"""What the configuration of a command may name."""

SYSTEMS_GROUP = "portraitgen.systems"
"""Entry points of this group name packages of systems: their name -> the package."""

FACTORIES = ("from_pretrained", "from_config")
"""Class methods that may be named beside classes."""

FORWARDED = {
    "lightning.pytorch.strategies.ddp.DDPStrategy": "torch.nn.parallel.DistributedDataParallel",
    "lightning.pytorch.strategies.fsdp.FSDPStrategy": "torch.distributed.fsdp.FullyShardedDataParallel",
    "lightning.pytorch.loggers.wandb.WandbLogger": "wandb.init",
}
"""Class that hands its **kwargs on → to what: a typo in those would only come out minutes later."""


@functools.cache
def installed_systems() -> dict[str, str]:
    """Name of each system that another installed package brings -> its package; nothing is imported."""
    found = importlib.metadata.entry_points(group=SYSTEMS_GROUP)
    return {each.name: each.module for each in sorted(found, key=lambda each: each.name)}


def resolve_target(name: str, allowed: tuple[str, ...] = COMMAND_MODULES) -> Callable[..., Any]:
    """The class or function that `_target_: name` names, imported.

    Raises:
        ValueError: it is not defined in one of the modules `allowed` or in the package of an installed
            system, or it cannot be imported.
    """
    allowed = (*allowed, *installed_systems().values())
    packages = sorted({module.split(".")[0] for module in allowed})
    parts = name.split(".")
    if len(parts) < 2 or parts[0] not in packages or any(part.startswith("_") for part in parts):
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


def _is_allowed(target: Any, allowed: tuple[str, ...]) -> bool:
    """True if the class or function is defined in an allowed module, wherever it was found."""
    if inspect.ismethod(target) and inspect.isclass(target.__self__) and target.__name__ in FACTORIES:
        target = target.__self__
    module = f"{getattr(target, '__module__', None)}."
    if not module.startswith(tuple(f"{prefix}." for prefix in allowed)):
        return False
    ours = tuple(f"{package}." for package in ("portraitgen", *installed_systems().values()))
    return inspect.isclass(target) or (inspect.isfunction(target) and module.startswith(ours))
