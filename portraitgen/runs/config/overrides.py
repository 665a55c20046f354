"""Why Hydra could not compose a configuration: all the misspelt overrides of a command line at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from portraitgen.runs.config.check import ConfigError, find_problems
from portraitgen.runs.config.hydra_errors import in_plain_words
from portraitgen.runs.config.schema import CONF
from portraitgen.runs.config.targets import argument_names, did_you_mean, resolve_target

_OF_EXPERIMENT = ("model", "data", "stage", "sampling")
"""Groups of train.py without a default."""


def explain(
    error: Exception, config_name: str, overrides: Sequence[str], folder: Path | None = None
) -> list[str]:
    """One line for each mistake in the command line, or in the files it composes.

    Hydra stops at the first override that it cannot place. So the configuration is composed once more without
    the plain `key=value` overrides, each of them is looked up in it, and then all are forced in to judge the
    rest.

    Args:
        error: what Hydra raised; told in its own words where the second composition does not help.
        config_name: name of the primary config, such as "train".
        overrides: the words of the command line.
        folder: that of `--config-dir`, whose groups stand beside those of conf/.
    """
    if folder is not None and not folder.is_dir():
        return [f"--config-dir={folder}: there is no such folder"]
    unknown: dict[str, str] = {}
    experiment = None
    with _composing(folder):
        try:
            parsed = OverridesParser.create().parse_overrides(list(overrides))
            if any(o.is_sweep_override() for o in parsed):
                return [in_plain_words(error)]
            experiment = next((str(o.value()) for o in parsed if o.key_or_group == "experiment"), None)
            values = [o for o in parsed if o.type is OverrideType.CHANGE and not _is_group(o)]
            others = [_text(o) for o in parsed if o not in values]
            composed = compose(config_name, others, return_hydra_config=True)
            unknown = {key: line for o in values for key, line in _look_up(composed, o)}
            forced = compose(config_name, [*others, *(f"++{_text(o)}" for o in values)])
        except ConfigError as refused:
            return refused.problems
        except (HydraException, OmegaConfBaseException, YAMLError) as second:
            said = in_plain_words(second, experiment=experiment, folder=folder)
            return [*unknown.values(), said]
        rest = [line for line in find_problems(forced) if line.split(":")[0] not in unknown]
        if config_name == "train" and OmegaConf.is_missing(forced, "model"):
            rest = [_no_experiment()]  # whatever else lacks a value lacks it for want of one
        return [*unknown.values(), *rest] or [in_plain_words(error, experiment=experiment, folder=folder)]


@contextmanager
def _composing(folder: Path | None) -> Iterator[None]:
    """Hydra as a command initializes it, with the groups of `folder` behind those of conf/."""
    path = create_config_search_path(str(CONF))
    if folder is not None:
        path.prepend("command-line", f"file://{folder.absolute()}", SearchPathQuery(provider="schema"))
    version.setbase("1.3")
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2("explain", path)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def _no_experiment() -> str:
    stages = [path for path in sorted(CONF.glob("experiment/*/*.yaml")) if "stage" in path.stem]
    names = [f"{path.parent.name}/{path.stem}" for path in stages]
    return (
        f"choose an option of each of the groups {', '.join(_OF_EXPERIMENT)}, or an experiment, which"
        f" chooses for you: experiment={' | '.join(names)}"
    )


def _text(override: Override) -> str:
    assert override.input_line is not None
    return override.input_line


def _is_group(override: Override) -> bool:
    if override.package is not None or "/" in override.key_or_group:
        return True
    loader = GlobalHydra.instance().config_loader()
    return bool(loader.get_group_options(override.key_or_group, results_filter=None))


def _look_up(config: DictConfig, override: Override) -> Iterator[tuple[str, str]]:
    """(key, line) if `key=value` is not in the configuration; the key ends where it stops being known."""
    node = config
    parts = override.key_or_group.split(".")
    for depth, part in enumerate(parts, start=1):
        if isinstance(node, DictConfig) and part not in list(node):
            key = ".".join(parts[:depth])
            arguments = _arguments(node)
            if part in arguments:
                yield key, f"{key}: the configuration does not set it; to add it write +{_text(override)}"
            else:
                yield key, f"{key}: no such key{did_you_mean(part, [*map(str, node), *arguments])}"
            return
        if depth == len(parts):
            return  # what it is now may be made of values that the command line gives
        key_or_index = int(part) if OmegaConf.is_list(node) else part
        if OmegaConf.is_missing(node, key_or_index) or not OmegaConf.is_config(node[key_or_index]):
            return
        node = node[key_or_index]


def _arguments(node: DictConfig) -> list[str]:
    try:
        return argument_names(resolve_target(str(node["_target_"]))) or [] if "_target_" in node else []
    except ValueError:
        return []
