"""python -m tests.faults [options]: what breaks in the world, done to the real commands.

Prints a table: hostile inputs by kind (`tests/security/fuzz.py`); commands killed at a random moment and
started again until they end, and what they made compared bit for bit with that of one that was left alone;
files that cannot grow, as on a full disk; checkpoints that are damaged; two starts of one command; and, with
`--only training`, what breaks around a training run (`tests/training_faults.py`). Exit code 1 if anything is
not as docs/reliability.md and docs/cluster.md say. Files say at which commit they were made: leave the
checkout alone meanwhile.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tests.fault_commands import Command, commands, complete, digests, start, wait
from tests.training_faults import TrainingFaults, node_taken_away

Damage = Callable[[Path, random.Random], None]

DIGEST_BYTES = 100
"""At least as many as a checkpoint's digest takes at its end; a file without one is read like older ones."""

WORDS_BYTES = 4096
"""Least limit of a full disk: what the command says goes into a file too."""

APART = {"at once": (0.0, 0.2), "a moment later": (0.5, 1.5)}
"""Seconds between two starts."""

ROWS = ("hostile", "kills", "disk", "checkpoints", "writers", "training")


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


def damaged_checkpoints(
    train: Command, sound: Path, folder: Path, damage: Damage, *, count: int
) -> Iterator[str]:
    """Damage last.ckpt of a run that was broken off: it goes on from previous.ckpt and says so in a line."""
    expected, random_ = digests(train, sound), random.Random(damage.__name__)
    half = folder.with_name("half")
    if not half.exists():
        complete(Command(train.name, (*train.words, "trainer.max_steps=4"), train.results), half)
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(half, folder)
        (folder / "output.txt").unlink()
        path = next(folder.glob("runs/**/checkpoints/last.ckpt"))
        damage(path, random_)
        code = wait(start(train, folder))
        said = (folder / "output.txt").read_text(errors="replace")
        place = f"last.ckpt {damage.__name__}, {number}"
        if code:
            yield f"{place}: it failed: {said[-300:]}"
            continue
        if digests(train, folder) != expected:
            yield f"{place}: it ended with other results"
        if (lines := said.count("going on from the one before, of step 2")) != 1:
            yield f"{place}: {lines} lines say from where it went on"


def flipped(path: Path, random_: random.Random) -> None:
    """One bit, anywhere in what the digest is of."""
    data = bytearray(path.read_bytes())
    data[random_.randrange(len(data) - DIGEST_BYTES)] ^= 1 << random_.randrange(8)
    path.write_bytes(data)


def cut(path: Path, random_: random.Random) -> None:
    """Anywhere in what the digest is of; an empty file is the shortest."""
    os.truncate(path, random_.randrange(path.stat().st_size - DIGEST_BYTES))


def made_a_folder(path: Path, random_: random.Random) -> None:
    """Empty, or with a file that is no checkpoint."""
    path.unlink()
    path.mkdir()
    if random_.random() < 0.5:
        (path / "states.pt").write_bytes(random_.randbytes(100))


def two_writers(
    command: Command, sound: Path, folder: Path, delays: tuple[float, float], *, count: int
) -> Iterator[str]:
    """Start a command twice: one ends as ever, the other is told which process holds the folder."""
    expected, random_ = digests(command, sound), random.Random(command.name)
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        delay = random_.uniform(*delays)
        first = start(command, folder, output="0.txt")
        time.sleep(delay)
        second = start(command, folder, output="1.txt")
        codes = [wait(first), wait(second)]
        said = [(folder / f"{each}.txt").read_text(errors="replace") for each in (0, 1)]
        place = f"{command.name} twice, {delay:.2f} s apart, {number}"
        if sorted(map(bool, codes)) != [False, True]:
            yield f"{place}: exit codes {codes}: {said[0][-200:]} | {said[1][-200:]}"
            continue
        refused = 0 if codes[0] else 1
        holder = (second, first)[refused]
        if f"is being written by process {holder} of " not in said[refused] or "Traceback" in said[refused]:
            yield f"{place}: the one that was refused did not name process {holder}: {said[refused][-300:]}"
        if digests(command, folder) != expected:
            yield f"{place}: the one that had the folder ended with other results"


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
    parser.add_argument("--inputs", type=int, default=100, help="hostile ones of each kind")
    parser.add_argument("--kills", type=int, default=200, help="of all commands together")
    parser.add_argument("--disks", type=int, default=2, help="limits of the disk, of each command")
    parser.add_argument("--damages", type=int, default=4, help="checkpoints, of each kind of damage")
    parser.add_argument("--writers", type=int, default=5, help="pairs, of each command and distance")
    parser.add_argument("--ranks", type=int, default=4, help="kills of one of two ranks")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, help="these rows of the table")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    problems: list[str] = []

    def row(what: str, times: int, outcome: str, found: Iterable[str]) -> None:
        defects = list(found)
        problems.extend(defects)
        print(
            f"| {what} | {times} | {'see the defects' if defects else outcome} | {len(defects)} |", flush=True
        )
        for problem in defects:
            print(f"defect: {problem}", file=sys.stderr, flush=True)

    print("| what | times | outcome | defects |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "hostile" in given.only:
            for kind, accepted, refused, defects in hostile(folder, inputs=given.inputs, seed=given.seed):
                said = f"{refused} refused in one message, {accepted} read"
                row(f"hostile: {kind}", given.inputs, said, defects)
        if {*given.only} - {"hostile", "training"}:
            break_commands(folder, given, row)
        if "training" in given.only:
            break_training(folder, given, row)
    return int(bool(problems))


def break_commands(folder: Path, given: argparse.Namespace, row: Callable[..., None]) -> None:
    """The rows that run whole commands."""
    from tests.talking_clip import write_talking_clip

    sound = folder / "sound"
    sound.mkdir()
    write_talking_clip(sound / "talk.mp4")
    all_commands = commands(sound)
    seconds = {each.name: complete(each, sound) for each in all_commands}
    if "kills" in given.only:
        share = -(-given.kills // len(all_commands))
        for each in all_commands:
            found = kills(each, sound, folder / "killed", count=share, seconds=seconds[each.name])
            row(f"kill -9: {each.name}", share, "ended with the same bits", found)
    if "disk" in given.only:
        for each in all_commands:
            largest = max(path.stat().st_size for pattern in each.results for path in sound.glob(pattern))
            limits = [max(largest >> (2 * number + 1), WORDS_BYTES) for number in range(given.disks)]
            found = full_disk(each, sound, folder / "full", limits=limits)
            row(f"full disk: {each.name}", len(limits), "said so, then ended with the same bits", found)
    if "checkpoints" in given.only:
        train = next(each for each in all_commands if each.name == "train")
        for damage in (flipped, cut, made_a_folder):
            found = damaged_checkpoints(train, sound, folder / "damaged", damage, count=given.damages)
            outcome = "one line, went on from previous.ckpt, ended with the same bits"
            row(f"last.ckpt {damage.__name__.replace('_', ' ')}", given.damages, outcome, found)
    if "writers" in given.only:
        for each in all_commands:
            for when, delays in APART.items():
                found = two_writers(each, sound, folder / "twice", delays, count=given.writers)
                outcome = "one ended with the same bits, one was told which process has the folder"
                row(f"two starts {when}: {each.name}", given.writers, outcome, found)


def break_training(folder: Path, given: argparse.Namespace, row: Callable[..., None]) -> None:
    """The rows of docs/cluster.md."""
    again = "and the same command ended with the same bits"
    faults = TrainingFaults(folder)
    found = faults.ranks_killed(count=given.ranks)
    row("kill -9 of one of two ranks", given.ranks, f"the other said so in a line, {again}", found)
    row(
        "last.ckpt flipped",
        given.damages,
        "one line, went on from previous.ckpt, ended with the same bits",
        damaged_checkpoints(faults.command, faults.whole, folder / "damaged", flipped, count=given.damages),
    )
    whole = f"one line, the last checkpoint was whole, {again}"
    same = "ended with the same bits"
    for what, outcome, found in (
        ("a disk (tmpfs) that is too small", f"{whole} with more room", faults.full_disk()),
        ("a shard cut short between two starts", f"{whole} once it was restored", faults.shard_cut()),
        ("a sample overwritten", "named, others stood in for it, the run ended", faults.sample_damaged()),
        ("a batch of NaN", whole, faults.batch_of_nan()),
        ("the process of W&B killed", f"one line, the run went on and {same}", faults.wandb_dropped()),
        ("W&B's server falls silent", f"one line, the run went on and {same}", faults.wandb_silent()),
        ("a node taken away", f"SLURM put the job back, which {same}", node_taken_away()),
    ):
        row(what, 1, outcome, found)


if __name__ == "__main__":
    sys.exit(main())
