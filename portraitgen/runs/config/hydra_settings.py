"""What of Hydra's own settings (`hydra.*`) a configuration may change.

They can name code (callbacks, log handlers, launchers and sweepers), set environment variables, and give
shell commands to a cluster. An experiment may be anybody's, so it may set what `SETTABLE` lists: where runs
lie, what a sweep tries, how large its jobs are. All the rest must be as Hydra, its installed plug-ins,
conf/hydra and the command's own conf/<command>.yaml bring it, or come from the user: typed on the command
line, or written in `conf/local/default.yaml`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import hydra._internal.hydra as hydra_internals
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from portraitgen.runs.config.check import ConfigError
from portraitgen.runs.config.interpolations import check_interpolations
from portraitgen.runs.config.keys import is_under, leaves
from portraitgen.runs.config.shell_commands import command_problems
from portraitgen.runs.config.yaml_files import CONF, load_yaml

SETTABLE = (
    "run.dir",
    "sweep.dir",
    "sweep.subdir",
    "output_subdir",
    "mode",
    "verbose",
    "job.name",
    "job.chdir",
    "job.config.override_dirname.*",
    # What a sweep tries.
    "sweeper.params*",
    *(f"sweeper.{name}" for name in ("max_batch_size", "study_name", "direction", "n_trials", "n_jobs")),
    "sweeper.max_failure_rate",
    *(f"sweeper.sampler.{name}" for name in ("seed", "n_startup_trials", "n_ei_candidates", "multivariate")),
    # How large its jobs are, and how long they run.
    *(f"launcher.{name}" for name in ("nodes", "tasks_per_node", "gpus_per_node", "gpus_per_task", "gres")),
    *(
        f"launcher.{name}"
        for name in ("cpus_per_task", "cpus_per_gpu", "mem_gb", "mem_per_gpu", "mem_per_cpu")
    ),
    *(
        f"launcher.{name}"
        for name in ("timeout_min", "signal_delay_s", "max_num_timeout", "array_parallelism")
    ),
    *(
        f"launcher.{name}"
        for name in ("partition", "qos", "account", "constraint", "exclude", "comment", "name")
    ),
    "launcher.submitit_folder",
)
"""Keys below `hydra` that any configuration may set, to plain values."""

_SET_BY_HYDRA = ("runtime", "overrides", "job.override_dirname", "job.config_name", "job.id", "job.num")
_SHOWN_ONLY = ("help", "hydra_help", "env")
_LOGGING = ("job_logging", "hydra_logging")
_IN_SCRIPTS = ("launcher", "run.dir", "sweep.dir", "sweep.subdir", "job.name")
"""What stands in the script that a cluster runs, in which the rest of a line that is broken is a command."""

_PLUGINS = ("launcher", "sweeper", "sweeper.sampler")
"""Nodes that name a class of an installed plug-in."""


def hydra_problems(node: DictConfig, words: Sequence[str], *, conf: Path) -> Iterator[str]:
    """A line for each setting below `hydra` that neither stands at its default nor may be set.

    Args:
        node: the composed `hydra`.
        words: overrides of the command line, which are the user's own.
        conf: the folder of our groups.
    """
    content: Any = OmegaConf.to_container(node, resolve=False)
    asked = [*_asked_for(words), *leaves(_own_settings(conf / "local" / "default.yaml"))]
    expected = leaves(_defaults(content)) | leaves(_own_settings(conf / f"{node.job.config_name}.yaml"))
    for place in _LOGGING:
        given = content.get(place)
        if not is_under(place, asked) and _without_levels(given) not in _known_logging(place, conf):
            yield f"hydra.{place}: not one of the installed ones or of conf/hydra/{place}; {_ADVICE}"
    for key, value in leaves(content).items():
        settable = any(fnmatchcase(key, pattern) for pattern in SETTABLE) and not _names_code(key, value)
        if settable or is_under(key, (*_SET_BY_HYDRA, *_SHOWN_ONLY, *_LOGGING, *asked)):
            continue
        if key not in expected or expected[key] != value:
            yield f"hydra.{key}: an experiment may not set this; {_ADVICE}"
    for key in leaves(content):
        if is_under(key, _IN_SCRIPTS) and re.search(r"[\x00-\x1f\x7f]", text := _resolved(node, key)):
            yield f"hydra.{key}: {text!r} has a line break or another control character"


_ADVICE = "type it on the command line, or write it in conf/local/default.yaml, if you want it"


_UNCOMPOSABLE = (
    *(ValueError, TypeError, AttributeError, LookupError, AssertionError, RecursionError, OSError),
)
"""What Hydra does not expect of a file: defaults of two keys, a group whose name is longer than a file's."""


class CheckedConfigLoader(ConfigLoaderImpl):
    """Hydra's composition, looked through before anything of it is used."""

    def _load_configuration_impl(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        try:
            config = super()._load_configuration_impl(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        except (HydraException, OmegaConfBaseException, ConfigError):
            raise
        except _UNCOMPOSABLE as error:
            said = f"the files cannot be composed ({type(error).__name__}: {error})"
            raise ConfigError([said]) from error
        problems = [*hydra_problems(config.hydra, overrides, conf=CONF), *check_interpolations(config)]
        # Only then values are resolved: some interpolations would grow for ever.
        problems = problems or [*command_problems(config, overrides, conf=CONF)]
        if problems:
            raise ConfigError(problems)
        return config


def check_compositions_of_hydra() -> None:
    """From now on Hydra composes with `CheckedConfigLoader`; may be called again."""
    hydra_internals.ConfigLoaderImpl = CheckedConfigLoader  # type: ignore[misc]


def _asked_for(words: Sequence[str]) -> Iterator[str]:
    """Keys below `hydra` that the command line sets, and groups of Hydra's of which it chooses one."""
    for word in words:
        key = re.match(r"[+~]{0,2}hydra[./]([\w./]+)", word)
        if key:
            yield key.group(1).replace("/", ".")


def _resolved(node: DictConfig, key: str) -> str:
    """The text at `key` with its interpolations, "" where it is none or not known yet."""
    try:
        value = OmegaConf.select(node, key)
    except OmegaConfBaseException:
        return ""
    return value if isinstance(value, str) else ""


def _own_settings(path: Path) -> dict[str, Any]:
    """What a file of ours or of the user says below `hydra`."""
    content = load_yaml(path) if path.is_file() else {}
    settings = content.get("hydra") if isinstance(content, dict) else None
    return settings if isinstance(settings, dict) else {}


def _defaults(content: Mapping[str, Any]) -> dict[str, Any]:
    """What Hydra and its installed plug-ins would have set, with the plug-ins that are named in `content`."""
    defaults: Any = OmegaConf.to_container(OmegaConf.structured(HydraConf))
    for place in _PLUGINS:
        given, above = _at(content, place), _at(defaults, place.rpartition(".")[0])
        options = _plugin_options(place)
        if isinstance(given, Mapping) and isinstance(above, dict):
            above[place.rpartition(".")[2]] = options.get(str(given.get("_target_")), {})
    return defaults  # type: ignore[no-any-return]


def _at(content: Any, place: str) -> Any:
    for part in filter(None, place.split(".")):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


@cache
def _plugin_options(place: str) -> dict[str, Any]:
    """`_target_` → settings, of what is installed for launcher, sweeper or sampler."""
    options: Any = ConfigStore.instance().repo
    for part in ("hydra", *place.split(".")):
        options = options.get(part, {})
    found = {}
    for name, option in options.items():
        if name.endswith(".yaml"):
            settings: Any = OmegaConf.to_container(option.node)
            settings.pop("defaults", None)
            found[str(settings.get("_target_"))] = settings
    return found


@cache
def _known_logging(place: str, conf: Path) -> list[Any]:
    folders = (conf / "hydra" / place, Path(str(files("hydra.conf") / "hydra" / place)))
    options = [path for folder in folders for path in sorted(folder.glob("*.yaml"))]
    return [None, {}, *(_without_levels(load_yaml(path)) for path in options)]


def _without_levels(content: Any) -> Any:
    """A configuration of logging but for the levels of single loggers, which anybody may set."""
    if not isinstance(content, Mapping):
        return content
    rest = dict(content)
    loggers = rest.pop("loggers", None) or {}
    only_levels = isinstance(loggers, Mapping) and all(
        isinstance(each, Mapping) and each.keys() == {"level"} for each in loggers.values()
    )
    return rest if only_levels else content


def _names_code(key: str, value: Any) -> bool:
    return "_target_" in key or (isinstance(value, str) and value.startswith("ext://"))
