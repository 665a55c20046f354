"""Every mistake in a composed configuration, found before anything is built.

A node with a `_target_` is compared with the real signature of what it names: unknown arguments (with a
"did you mean"), required arguments that are not set, scalars of a plainly wrong type. Values that are missing
(`???`) and interpolations that lead nowhere are listed too. Networks are built on PyTorch's meta device,
without memory and in a second or two at full size: only they know what their nested settings may hold.
"""

import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from portraitgen.runs.config.configurable import FACTORIES, REFUSED_ARGUMENTS
from portraitgen.runs.config.systems import system_of
from portraitgen.runs.config.targets import (
    COMMAND_TARGETS,
    Allowed,
    argument_names,
    did_you_mean,
    resolve_target,
)

HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


class ConfigError(ValueError):
    """The configuration has mistakes; the message lists all of them, one a line."""

    def __init__(self, problems: Collection[str]) -> None:
        self.problems = [*problems]
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"{count} in the configuration, nothing was started:", *problems]))


def check_config(config: DictConfig, *, allowed: Allowed = COMMAND_TARGETS) -> None:
    """Raise a ConfigError that lists every mistake in `config`; return when there is none."""
    problems = find_problems(config, allowed=allowed)
    if problems:
        raise ConfigError(problems)


def find_problems(config: DictConfig, *, allowed: Allowed = COMMAND_TARGETS) -> list[str]:
    """One line for each mistake, in the order of the configuration.

    Args:
        allowed: what a `_target_` may name.
    """
    return list(_walk(config, "", allowed))


def _walk(config: DictConfig | ListConfig, path: str, allowed: Allowed) -> Iterator[str]:
    for key in range(len(config)) if isinstance(config, ListConfig) else list(config):
        here = f"{path}[{key}]" if isinstance(config, ListConfig) else f"{path}.{key}".lstrip(".")
        if OmegaConf.is_interpolation(config, key):
            try:
                config[key]
            except OmegaConfBaseException as error:
                yield f"{here}: {str(error).splitlines()[0]}"
        elif OmegaConf.is_missing(config, key):
            yield f"{here}: no value given (???)"
        elif OmegaConf.is_config(config[key]):
            yield from _walk(config[key], here, allowed)
        elif isinstance(config[key], float) and not math.isfinite(config[key]):
            yield f"{here}: {config[key]} is not a finite number"
    if isinstance(config, DictConfig) and "_target_" in config:
        for problem in _check_call(config, allowed):
            yield f"{path}.{problem}".lstrip(".")


def _check_call(node: DictConfig, allowed: Allowed) -> Iterator[str]:
    try:
        target = resolve_target(str(node["_target_"]), allowed)
    except ValueError as error:
        yield f"_target_: {error}"
        return
    arguments = _resolved_arguments(node)
    problems = [*_wrong_arguments(target, node, arguments), *_wrong_types(target, arguments)]
    yield from problems
    if not problems and UNRESOLVED not in arguments.values() and _is_network(target):
        yield from _build_on_meta(target, arguments)


def _wrong_arguments(
    target: Callable[..., Any], node: DictConfig, arguments: Mapping[str, Any]
) -> Iterator[str]:
    names = argument_names(target)
    refused = REFUSED_ARGUMENTS.get(f"{target.__module__}.{target.__qualname__}", ())
    label = str(node["_target_"]).rpartition(".")[2]
    for name, value in arguments.items():
        if names is not None and name not in names:
            known = f" (it takes {', '.join(names)})" if label in FACTORIES else ""
            yield f"{name}: {label} takes no such argument{known}{did_you_mean(name, names)}"
        elif name in refused:
            yield f"{name}: no configuration may give this to {label}"
        elif name == "use_safetensors" and value is not True:
            yield f"{name}: weights are never unpickled; leave it out"
    if not node.get("_partial_"):
        for name in _required(target, positional=len(node.get("_args_", ()))):
            if name not in arguments:
                yield f"{name}: required by {label} and not set"


def _is_network(target: Callable[..., Any]) -> bool:
    """Whether the target is the network of a system: plain settings in, parameters out."""
    return target.__module__.rpartition(".")[2] == "network" and system_of(target.__module__) is not None


def _build_on_meta(target: Callable[..., Any], arguments: Mapping[str, Any]) -> Iterator[str]:
    """Build a network without memory for its parameters: it judges its nested settings itself."""
    import torch

    from portraitgen.nn.limits import limited_modules

    try:
        with torch.device("meta"), limited_modules():
            target(**arguments)
    except (ValueError, TypeError) as error:
        yield str(error)
    # What settings that do not go together come to inside of a library.
    except (ArithmeticError, LookupError, AttributeError, RuntimeError, AssertionError) as error:
        yield f"cannot be built with these settings ({type(error).__name__}: {error})"


UNRESOLVED = object()
"""Stands for a value that is missing or cannot be resolved; the walk reports it by itself."""


def _resolved_arguments(node: DictConfig) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for key in map(str, node):
        if key in HYDRA_KEYS:
            continue
        try:
            value = node[key]
            arguments[key] = (
                OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
                if OmegaConf.is_config(value)
                else value
            )
        except OmegaConfBaseException:
            arguments[key] = UNRESOLVED
    return arguments


def _required(target: Callable[..., Any], *, positional: int) -> Iterator[str]:
    """Arguments without a default, less the first `positional` ones."""
    for index, p in enumerate(inspect.signature(target).parameters.values()):
        if p.default is not p.empty or (p.kind is p.POSITIONAL_OR_KEYWORD and index < positional):
            continue
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
            yield p.name


def _wrong_types(target: Callable[..., Any], arguments: Mapping[str, Any]) -> Iterator[str]:
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):
        return  # annotations that exist for type checkers only
    parameters = inspect.signature(target).parameters
    for name, value in arguments.items():
        if value is UNRESOLVED or name not in hints or name not in parameters:
            continue
        if not _accepts(hints[name], value) and value != parameters[name].default:
            yield f"{name}: expected {_describe(hints[name])}, got {value!r}"


def _accepts(hint: Any, value: Any) -> bool:
    """False only where `hint` plainly excludes a scalar or a container; objects are not judged."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_accepts(option, value) for option in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if isinstance(value, dict) and "_target_" in value:
        return True  # an object, judged where it is built
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return whole and not isinstance(value, bool)
    if origin is not None:
        return not isinstance(value, bool | int | float)  # a number where a list or a callable is wanted
    if not inspect.isclass(hint) or hint in (Any, object) or issubclass(hint, Path | Enum):
        return True
    scalar = isinstance(value, bool | int | float | str | None)
    # Most protocols cannot be asked, and no scalar follows one.
    return not scalar if getattr(hint, "_is_protocol", False) else isinstance(value, hint) or not scalar


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(_describe(option) for option in typing.get_args(hint)))
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(repr(option) for option in typing.get_args(hint))
    if hint is type(None):
        return "null"
    return hint.__name__ if inspect.isclass(hint) else str(hint)
