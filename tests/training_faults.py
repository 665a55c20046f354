"""What breaks around a training run, done to train.py, for `tests.faults`.

Each method yields a line for what is not as docs/cluster.md says. A run that was broken off is started again
at the end, and what it then has made compared bit for bit with a run that was left alone.
"""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from portraitgen.training.checkpoint import Resume, find_resume
from tests.command_line import ROOT
from tests.fault_commands import SETTINGS, Command, complete, digests, start, wait
from tests.training.wandb_server import wandb_server

RUN = Path("runs/aniportrait/tiny_stage1")
TWO_RANKS = ("strategy=ddp", "trainer.devices=2", "data.batch_size=1")
LOST = "error: another process of this run has ended"
ENDS_WITHIN_S = 300
"""A rank that waits for one that is gone; most of it is what a busy machine needs to end a process."""


class TrainingFaults:
    """Faults of one run: what it trains on, how it is started, and what it comes to when it is left alone."""

    def __init__(self, folder: Path) -> None:
        self.shards = write_shards(folder / "data")
        self.folder = folder / "broken"
        self.command = self._command("logger=csv")
        self.whole = folder / "whole"
        complete(self.command, self.whole)
        self.expected = digests(self.command, self.whole)

    def ranks_killed(self, *, count: int) -> Iterator[str]:
        """Kill -9 one of two ranks: the other ends by itself and says so in a line."""
        random_, command = random.Random(0), self._command(*TWO_RANKS)
        whole = self.folder.with_name("whole_of_two")
        _finish(_start_apart(command, whole))
        for number in range(count):
            rank, step = number % 2, random_.randrange(1, 6)
            process = _start_apart(command, self._empty())
            _until(lambda step=step: f"step {step}/" in self._said(), process)  # type: ignore[misc]
            ranks = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
            ranks = [each for each in ranks if "train.py" in " ".join(each.cmdline())]
            ranks[rank].kill()
            place = f"rank {rank} killed after step {step}"
            process.poll() if rank else process.wait()
            _, alive = psutil.wait_procs(ranks[1 - rank : 2 - rank], timeout=ENDS_WITHIN_S)
            for each in alive:
                yield f"{place}: the other rank still waits after {ENDS_WITHIN_S} s"
                each.kill()
            process.wait()
            said = self._said() + "".join(path.read_text() for path in self._run.glob("train.rank1.log"))
            if LOST.removeprefix("error: ") not in said or "Traceback" in said:
                yield f"{place}: the other rank did not say it in a line: {said[-1500:]}"
            _finish(_start_apart(command, self.folder))
            if digests(command, self.folder) != digests(command, whole):
                yield f"{place}: it ended with other results"

    def full_disk(self) -> Iterator[str]:
        """Run on a small tmpfs, which the third checkpoint does not fit on."""
        size = sum(path.stat().st_size for path in (self.whole / RUN / "checkpoints").iterdir())
        folder = self._empty()
        options = f"size={int(1.2 * size)}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        try:
            code = wait(start(self.command, folder))
            yield from self._one_error(code, r"error: the disk of \S+ is full: ", "full disk")
            yield from self._still_there(4, "full disk")
            subprocess.run(["mount", "-o", f"remount,size={8 * size}", str(folder)], check=True)
            yield from self._goes_on("full disk")
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    def shard_cut(self) -> Iterator[str]:
        """Cut a shard short between two starts; then restore it."""
        self._half()
        sound = self.shards.read_bytes()
        self.shards.write_bytes(sound[: len(sound) // 2])
        try:
            code = wait(start(self.command, self.folder))
        finally:
            self.shards.write_bytes(sound)
        yield from self._one_error(
            code, "error: data.shards: the run was started with 4 samples", "shard cut"
        )
        yield from self._still_there(4, "shard cut")
        yield from self._goes_on("shard cut")

    def sample_damaged(self) -> Iterator[str]:
        """Overwrite the video of one sample: it is named, and others stand in for it."""
        self._empty()
        sound = self.shards.read_bytes()
        place = sound.index(b"face1-000000000.mp4") + 512
        self.shards.write_bytes(sound[:place] + bytes(4096) + sound[place + 4096 :])
        try:
            code = wait(start(self.command, self.folder))
        finally:
            self.shards.write_bytes(sound)
        said = self._said()
        if code or "Traceback" in said:
            yield f"sample damaged: exit code {code}: {said[-300:]}"
        if "face1-000000000 cannot be read and is replaced by the next" not in said:
            yield f"sample damaged: it was not named: {said[-300:]}"

    def batch_of_nan(self) -> Iterator[str]:
        """The fifth batch is not a number."""
        code = wait(start(self.command, self._empty(), _send_nan))
        yield from self._one_error(code, r"error: the loss is not finite at step 5 ", "NaN batch")
        yield from self._still_there(4, "NaN batch")
        yield from self._goes_on("NaN batch")

    def wandb_dropped(self) -> Iterator[str]:
        """Kill the process that sends to W&B after step 2: training goes on without it."""
        command = self._command("logger=wandb", "trainer.log_every_n_steps=1")
        os.environ["WANDB_MODE"] = "offline"
        process = _start_apart(command, self._empty())
        _until(lambda: "step 2/" in self._said(), process)
        for each in psutil.Process(process.pid).children(recursive=True):
            if "wandb-core" in " ".join(each.cmdline()):
                each.kill()
        code, said = process.wait(), self._said()
        if code or said.count("W&B's process on this machine has ended") != 1 or "Traceback" in said:
            yield f"W&B dropped: exit code {code}: {said[-300:]}"
        if digests(command, self.folder) != self.expected:
            yield "W&B dropped: it ended with other results"

    def wandb_silent(self) -> Iterator[str]:
        """W&B's server hangs up on everybody from step 2 on: training goes on, and ends."""
        command = self._command("logger=wandb", "trainer.log_every_n_steps=1")
        given = {"WANDB_MODE": "online", "WANDB_API_KEY": "k" * 40, "WANDB_FINISH_TIMEOUT": "5"}
        with wandb_server() as server, patch.dict(os.environ, {**given, "WANDB_BASE_URL": server.url}):
            process = _start_apart(command, self._empty())
            _until(lambda: "step 2/" in self._said(), process)
            server.silent = True
            code, said = process.wait(), self._said()
        if code or said.count("`wandb sync ") != 1 or "Traceback" in said:
            yield f"W&B silent: exit code {code}: {said[-300:]}"
        if digests(command, self.folder) != self.expected:
            yield "W&B silent: it ended with other results"

    def _command(self, *words: str) -> Command:
        pattern = self.shards.with_name("train-*.tar")
        given = ("train.py", "experiment=aniportrait/tiny_stage1", f"data.shards={pattern}")
        results = (f"{RUN}/weights/last.safetensors",)
        return Command("train", (*given, "paths.runs=runs", *SETTINGS, *words), results)

    @property
    def _run(self) -> Path:
        return self.folder / RUN

    def _said(self) -> str:
        output = self.folder / "output.txt"
        return output.read_text(errors="replace") if output.exists() else ""

    def _empty(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return self.folder

    def _half(self) -> None:
        """A run that was broken off after step 4 of 6."""
        words = (*self.command.words, "trainer.max_steps=4")
        complete(Command("train", words, self.command.results), self._empty())
        (self.folder / "output.txt").unlink()

    def _one_error(self, code: int, pattern: str, what: str) -> Iterator[str]:
        said = self._said()
        errors = re.findall(r"^error: .*", said, re.MULTILINE)
        if code != 1 or len(errors) != 1 or not re.match(pattern, errors[0]) or "Traceback" in said:
            yield f"{what}: exit code {code}, said {errors or said[-300:]}"

    def _still_there(self, step: int, what: str) -> Iterator[str]:
        found = find_resume(self._run / "checkpoints")
        if found != Resume(self._run / "checkpoints/last.ckpt", step):
            yield f"{what}: it would go on from {found}"

    def _goes_on(self, what: str) -> Iterator[str]:
        complete(self.command, self.folder)
        if digests(self.command, self.folder) != self.expected:
            yield f"{what}: it ended with other results"


def node_taken_away() -> Iterator[str]:
    """On the SLURM of `make test-slurm`."""
    words = ["-q", "-m", "slurm", "tests/slurm/test_slurm.py", "-k", "node_that_goes_down"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-m", "pytest", *words]
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        yield f"node taken away: {done.stdout[-500:]}"


def write_shards(root: Path) -> Path:
    """Two shards of two drawn faces each; the first of them."""
    from portraitgen.data.shards import ShardWriter
    from tests.synthetic import synthetic_clip

    with ShardWriter(root, "train", max_samples=2) as writer:
        for seed in range(4):
            writer.write(synthetic_clip(f"face{seed}", num_frames=24, size=64, seed=seed))
    return min((root / "shards").glob("*.tar"))


def _start_apart(command: Command, folder: Path) -> "subprocess.Popen[str]":
    """In an interpreter of its own, as Lightning starts the other ranks by the words of the first."""
    folder.mkdir(exist_ok=True)
    words = [sys.executable, str(ROOT / command.words[0]), *command.words[1:]]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (folder / "output.txt").open("a") as output:
        return subprocess.Popen(
            words,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )


def _finish(process: "subprocess.Popen[str]") -> None:
    if process.wait():
        raise RuntimeError(f"train.py failed with exit code {process.returncode}")


def _until(true: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    while not true():
        if process.poll() is not None:
            raise RuntimeError(
                f"train.py ended with exit code {process.returncode} before anything was done to it"
            )
        time.sleep(0.02)


def _send_nan() -> None:
    """In the process of the run, before it starts."""
    from portraitgen.data.datamodule import ShardDataModule

    receive = ShardDataModule.on_after_batch_transfer

    def spoiled(self: Any, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        batch = receive(self, batch, dataloader_idx)
        if self.trainer.training and self.trainer.global_step == 4:
            batch["frames"] = batch["frames"] * float("nan")
        return batch

    ShardDataModule.on_after_batch_transfer = spoiled  # type: ignore[method-assign]
