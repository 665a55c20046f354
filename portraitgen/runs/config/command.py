"""What the commands share: compose the configuration, run the task, turn a user's mistake into one message.

A mistake of the user (a ValueError, a missing or forbidden file, a configuration that does not compose) ends
in a short message on stderr and exit code 1. Anything else is a defect: it keeps its traceback, and exits so
too. PORTRAITGEN_TRACEBACK=1 shows the traceback in every case.
"""

import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from portraitgen.media.blame import raised_here
from portraitgen.media.one_writer import FolderInUse, one_writer
from portraitgen.runs.config.check import ConfigError
from portraitgen.runs.config.disk import disk_full_message, is_disk_full
from portraitgen.runs.config.lost_process import is_process_lost, process_lost_message
from portraitgen.runs.config.overrides import explain
from portraitgen.runs.config.own_files import named_with_files
from portraitgen.runs.config.schema import CONF, process_rank, register_configs
from portraitgen.runs.config.shell_commands import command_problems
from portraitgen.runs.config.threads import set_threads
from portraitgen.runs.config.words import config_folder, override_words, readable_words, unreadable
from portraitgen.runs.train.trials import SweepTable, sweep_words

log = logging.getLogger(__name__)

USER_ERRORS = (ValueError, FileNotFoundError, NotADirectoryError, PermissionError)
"""What our own code raises for a mistake of the user. The same types from a library are defects of ours."""


class TaskFailed(Exception):
    """A trial of a sweep failed; its message has been printed."""


def command(task: Callable[[DictConfig], Any], *, config_name: str) -> None:
    """Run `task` on the configuration `conf/<config_name>.yaml` with the overrides of the command line.

    Args:
        task: takes the composed configuration; what it returns is the value of a trial in a sweep.
        config_name: name of the primary config.
    """
    if sys.flags.optimize > 1:
        # Without docstrings transformers cannot be imported, which ends far from here.
        print("error: PYTHONOPTIMIZE=2 (python -OO) does not work: unset it, or set it to 1", file=sys.stderr)
        sys.exit(1)
    # Hydra would print errors in its own way and hide their cause; with this it raises them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    threads = set_threads()
    register_configs()
    sys.argv[1:] = sweep_words(readable_words(sys.argv[1:]))
    main = hydra.main(config_path=str(CONF), config_name=config_name, version_base="1.3")(
        _guarded(task, threads)
    )
    try:
        main()
        _show_trials()
    except TaskFailed:
        _show_trials()
        sys.exit(1)
    except ConfigError as error:  # refused as it was composed
        _show(error, str(error))
        sys.exit(1)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        words = override_words(sys.argv[1:])
        lines = [*unreadable(words)] or explain(error, config_name, words, config_folder(sys.argv[1:]))
        _show(error, str(ConfigError(lines)))
        sys.exit(1)
    except OSError as error:  # Hydra makes the run directory before the task starts
        _show(error, f"cannot write the results: {error}. Choose another folder (paths.runs=… or out=…)")
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _show_trials() -> None:
    lines = SweepTable.lines()
    if lines:
        print("\n".join(["", *lines]), file=sys.stderr)


def _guarded(task: Callable[[DictConfig], Any], threads: str | None) -> Callable[[DictConfig], Any]:
    """`task` that reports its errors: a single run ends there, a sweep goes on to the next trial."""

    @functools.wraps(task)
    def run(config: DictConfig) -> Any:
        folder = Path(HydraConfig.get().runtime.output_dir)
        if HydraConfig.get().mode is RunMode.MULTIRUN and "name" in config:
            # A trial is a run of its own: named after its directory, it resumes alone.
            config.name = os.path.relpath(folder, config.paths.runs)
        if threads is not None and not process_rank():
            logging.getLogger("portraitgen").info(threads)
        try:
            # Some interpolations can be resolved only now.
            given = HydraConfig.get().overrides.task
            if problems := [*command_problems(config, given, conf=CONF)]:
                raise ConfigError(problems)
            with _held(folder):
                return task(config)
        except Exception as error:
            _report(_with_files(error), folder)
            if process_rank() == 0:
                _remove_empty(folder, depth=len(Path(config.get("name", "out/report")).parts))
            if HydraConfig.get().mode is RunMode.RUN:
                sys.exit(1)
            raise TaskFailed(str(error)) from error

    return run


def _held(folder: Path) -> AbstractContextManager[None]:
    """One writer for the folder of the results; of several processes of one command the first is it.

    Where Hydra runs in the folder that the command was started in, the command itself says where it writes.
    """
    if process_rank() or folder.resolve() == Path.cwd().resolve():
        return nullcontext()
    return one_writer(folder)


def _with_files(error: Exception) -> Exception:
    """The error; of a wrong setting with the file of `--config-dir` in which it stands."""
    if not isinstance(error, ConfigError):
        return error
    composed = HydraConfig.get()
    chosen, given = composed.runtime.choices, composed.overrides.task
    problems = named_with_files(error.problems, config_folder(sys.argv[1:]), chosen, given)
    return ConfigError(problems).with_traceback(error.__traceback__)


def _report(error: Exception, folder: Path) -> None:
    """Print the error of a task, and log it if the run in `folder` had begun."""
    place = ""
    while isinstance(error, InstantiationException) and isinstance(error.__cause__, Exception):
        # Hydra's last line says where in the configuration the object stands that could not be built, unless
        # it is the whole of it.
        _, marker, key = str(error).rpartition("full_key: ")
        place = place or (key.strip() if marker else "")
        error = error.__cause__
    message = None
    if is_disk_full(error):
        message = disk_full_message(folder)
    elif is_process_lost(error):
        message = process_lost_message()
    elif _is_mistake(error):
        message = f"{place}: {error}" if place else str(error)
    _show(error, message)
    if any(folder.iterdir()) and not isinstance(error, FolderInUse):
        # Into the log file alone: the console has it.
        log.handlers = [
            each for each in logging.getLogger().handlers if isinstance(each, logging.FileHandler)
        ]
        log.propagate = False
        log.error("%s", message or "this is a defect", exc_info=None if message else error)


def _remove_empty(folder: Path, *, depth: int) -> None:
    """Remove the run directory, which Hydra made, and its parents up to `depth` levels if they are empty."""
    for each in [folder, *folder.parents][:depth]:
        if any(each.iterdir()) or each == Path.cwd():
            return
        each.rmdir()


def _show(error: Exception, message: str | None) -> None:
    """Print `message`; the traceback too if there is none (a defect) or if it is asked for.

    A mistake of the user is one for all processes of a command, so the first of each machine says it.
    """
    if message is not None and process_rank() and _is_not_first_of_machine():
        return
    if message is None or os.environ.get("PORTRAITGEN_TRACEBACK") == "1":
        traceback.print_exception(error)
    if message is not None:
        print(f"error: {message}", file=sys.stderr)


def _is_not_first_of_machine() -> bool:
    return any(int(os.environ.get(name, 0)) > 0 for name in ("LOCAL_RANK", "SLURM_LOCALID"))


def _is_mistake(error: Exception) -> bool:
    """Whether the user can mend it: such an error raised by portraitgen itself, or Lightning's own kind."""
    if type(error).__name__ == "MisconfigurationException":
        return True
    return isinstance(error, USER_ERRORS) and raised_here(error)
