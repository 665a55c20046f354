"""The commands as a user types them, in this process: no second is lost on imports."""

import logging
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from portraitgen.runs.config import command

ROOT = Path(__file__).resolve().parents[1]


def run_command(script: str, *words: str, folder: Path) -> int:
    """Run `python <script> <words>` in `folder`, such as `run_command("train.py", "seed=1", folder=…)`.

    Leaves the process as it was: folder, arguments, environment, loggers, determinism.

    Returns:
        Its exit code.
    """
    with _unchanged_process():
        os.chdir(folder)
        sys.argv = [script, *words]
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as error:
            return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0


@contextmanager
def _unchanged_process() -> Iterator[None]:
    here, arguments, environment, root = Path.cwd(), sys.argv, dict(os.environ), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        os.chdir(here)
        sys.argv = arguments
        os.environ.clear()
        os.environ.update(environment)
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        command.log.handlers.clear()
        command.log.propagate = True
        torch.use_deterministic_algorithms(deterministic)
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
