"""Real commands, started so that something can be done to them, and what they made, for `tests.faults`."""

import hashlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.command_line import run_command

SETTINGS = (
    *("trainer.max_steps=6", "callbacks.last_checkpoint.every_steps=2"),
    *("data.val_samples=1", "data.num_workers=0", "sampling.num_steps=1"),
)


@dataclass(frozen=True, slots=True)
class Command:
    """A command, and which of its files say what it came to.

    Attributes:
        words: script and overrides.
        results: patterns below the folder.
    """

    name: str
    words: tuple[str, ...]
    results: tuple[str, ...]


def commands(sound: Path) -> list[Command]:
    """Every command that makes something, on what `sound` holds."""
    shards, given = (f"{key}={sound}/data/shards/*.tar" for key in ("data.shards", "shards"))
    weights = f"weights={sound}/runs/aniportrait/tiny_stage1/weights/last.safetensors"
    return [
        Command(
            "prepare",
            ("prepare.py", f"source={sound}/talk.mp4", "out=data", "size=64", "workers=0", "embed_every=0"),
            ("data/shards/*.tar", "data/index/*.npz", "data/dataset.json"),
        ),
        Command(
            "train",
            ("train.py", "experiment=aniportrait/tiny_stage1", shards, "paths.runs=runs", *SETTINGS),
            ("runs/aniportrait/tiny_stage1/weights/*.safetensors",),
        ),
        Command(
            "generate",
            ("generate.py", weights, given, "span=[0.75,1.0]", "out=clips", "sampling.num_steps=1"),
            ("clips/samples.jsonl", "clips/*/*.mp4", "clips/sheets/*.png"),
        ),
        Command(
            "evaluate",
            ("evaluate.py", f"generated={sound}/clips", "metrics=identity", "out=report"),
            ("report/frames.csv",),
        ),
    ]  # fmt: skip


def digests(command: Command, folder: Path) -> dict[str, str]:
    """Name → SHA-256 of what a command made; its words name no folder of its own, so neither do the files."""
    found = sorted(path for pattern in command.results for path in folder.glob(pattern))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def start(
    command: Command, folder: Path, before: Callable[[], None] = lambda: None, *, output: str = "output.txt"
) -> int:
    """Run a command in a child of this process, whose modules are loaded; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 2
    try:
        os.setsid()
        log = os.open(folder / output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        before()
        code = run_command(*command.words, folder=folder)
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Exit code of a child; negative: the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def complete(command: Command, folder: Path) -> float:
    """Run a command to its end; seconds.

    Raises:
        RuntimeError: it failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if wait(start(command, folder)):
        raise RuntimeError(f"{command.name} failed:\n{(folder / 'output.txt').read_text()[-2000:]}")
    for pattern in command.results:
        assert any(folder.glob(pattern)), f"{command.name} made no {pattern}: nothing would be compared"
    return time.monotonic() - began
