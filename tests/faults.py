"""python -m tests.faults [--kills N] [--inputs N]: what breaks in the world, done to the real commands.

Prints a table: hostile inputs by kind (`tests/security/fuzz.py`); commands killed at a random moment and
started again until they end, and what they made compared bit for bit with that of one that was left alone;
files that cannot grow, as on a full disk; checkpoints that are damaged. Exit code 1 if anything is not as
docs/reliability.md says. Files say at which commit they were made: leave the checkout alone meanwhile.
"""

import argparse
import hashlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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
            ("clips/samples.jsonl", "clips/*.mp4"),
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


def start(command: Command, folder: Path, before: Callable[[], None] = lambda: None) -> int:
    """Run a command in a child of this process, whose modules are loaded; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 2
    try:
        os.setsid()
        log = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
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
    return time.monotonic() - began


def kills(command: Command, sound: Path, folder: Path, *, count: int, seconds: float) -> Iterator[str]:
    """Kill a command so often, each time at a random moment, and finish it; a line for each difference."""
    expected, random_ = digests(command, sound), random.Random(command.name)
    done = 0
    while done < count:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        # Two kills of one run, where it lasts so long: a resumed run is killed too.
        for _ in range(min(2, count - done)):
            child = start(command, folder)
            time.sleep(random_.uniform(0, seconds))
            try:
                os.killpg(child, signal.SIGKILL)
            except ProcessLookupError:
                os.kill(child, signal.SIGKILL)
            wait(child)
            done += 1
        complete(command, folder)
        found = digests(command, folder)
        if found != expected:
            differing = [name for name in expected if found.get(name) != expected[name]]
            yield f"{command.name}, about kill {done}: {', '.join(differing) or 'more files'} differ"


def full_disk(command: Command, sound: Path, folder: Path, *, limits: Sequence[int]) -> Iterator[str]:
    """Let no file grow beyond a limit: the command says so, and once there is room ends as ever."""
    expected = digests(command, sound)
    for limit in limits:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        code = wait(start(command, folder, lambda limit=limit: _limit_files(limit)))  # type: ignore[misc]
        said = (folder / "output.txt").read_text(errors="replace")
        if code == 0 and digests(command, folder) != expected:
            yield f"{command.name}, files of {limit} bytes: it ended well with other results"
        if code < 0:
            yield f"{command.name}, files of {limit} bytes: ended by signal {-code}"
        if code > 0 and "error" not in said.lower():
            yield f"{command.name}, files of {limit} bytes: it did not say why it failed"
        complete(command, folder)
        if digests(command, folder) != expected:
            yield f"{command.name}, after files of {limit} bytes: other results than ever"


def damaged_checkpoints(command: Command, sound: Path, folder: Path, *, count: int) -> Iterator[str]:
    """Damage last.ckpt of a run that was broken off; it must end as ever, or say what is damaged."""
    expected, random_ = digests(command, sound), random.Random(0)
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        half = Command(command.name, (*command.words, "trainer.max_steps=4"), command.results)
        complete(half, folder)
        path = folder / "runs/aniportrait/tiny_stage1/checkpoints/last.ckpt"
        data = bytearray(path.read_bytes())
        if number % 2:
            del data[random_.randrange(len(data)) :]
        else:
            data[random_.randrange(len(data))] ^= 0xFF
        path.write_bytes(data)
        code = wait(start(command, folder))
        said = (folder / "output.txt").read_text(errors="replace")
        same = digests(command, folder)
        wrong = [name for name in expected if name in same and same[name] != expected[name]]
        if code == 0 and wrong:
            yield f"damage {number}: it ended well with other {', '.join(wrong)}"
        if code != 0 and "last.ckpt" not in said:
            yield f"damage {number}: it failed and did not name the checkpoint"


def hostile(folder: Path, *, inputs: int, seed: int) -> Iterator[tuple[str, int, int, list[str]]]:
    """Kind, inputs that were accepted, inputs that were refused, defects."""
    from tests.security.fuzz import Fuzzer, run

    marker = folder / "marker"
    fuzzer = Fuzzer(folder / "fuzz", marker)
    for kind in fuzzer.kinds:
        outcome = run(fuzzer, kind, inputs=inputs, seed=seed)
        defects = [*outcome.defects, *([f"{kind}: something was run"] if marker.exists() else [])]
        yield kind, outcome.accepted, outcome.refused, defects


def _limit_files(limit: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=200, help="of all commands together")
    parser.add_argument("--inputs", type=int, default=100, help="hostile ones of each kind")
    parser.add_argument("--damages", type=int, default=10, help="of checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    problems: list[str] = []

    def row(what: str, times: str, outcome: str, found: Sequence[str]) -> None:
        problems.extend(found)
        print(f"| {what} | {times} | {outcome} | {len(found)} |", flush=True)
        for problem in found:
            print(f"defect: {problem}", file=sys.stderr, flush=True)

    print("| what | times | outcome | defects |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, accepted, refused, defects in hostile(folder, inputs=given.inputs, seed=given.seed):
            said = f"{refused} refused in one message, {accepted} read"
            row(f"hostile: {kind}", f"{given.inputs}", said, defects)
        sound = folder / "sound"
        sound.mkdir()
        from tests.talking_clip import write_talking_clip

        write_talking_clip(sound / "talk.mp4")
        all_commands = commands(sound)
        seconds = {each.name: complete(each, sound) for each in all_commands}
        share = -(-given.kills // len(all_commands))
        for each in all_commands:
            found = [*kills(each, sound, folder / "killed", count=share, seconds=seconds[each.name])]
            row(f"kill -9: {each.name}", f"{share}", "ended with the same bits", found)
        train = next(each for each in all_commands if each.name == "train")
        for each in all_commands:
            largest = max(path.stat().st_size for pattern in each.results for path in sound.glob(pattern))
            limits = [largest // 2, largest // 10]
            found = [*full_disk(each, sound, folder / "full", limits=limits)]
            row(f"full disk: {each.name}", f"{len(limits)}", "said so, then ended with the same bits", found)
        found = [*damaged_checkpoints(train, sound, folder / "damaged", count=given.damages)]
        row("damaged last.ckpt", f"{given.damages}", "same bits, or said which file", found)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
