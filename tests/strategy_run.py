"""train.py under a strategy on this machine's CPU, in processes of their own, for tests that compare runs.

One process can play N ranks: batch k is drawn with the random numbers and the share of the time axis of rank
k mod N in step k div N, so that with N batches accumulated a step is that of N processes.
"""

import multiprocessing
import os
import socket
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

SYSTEMS = ("aniportrait", "consisid", "flux_identity", "loopy", "uniportrait")
SERVED = [
    "lightning.pytorch.strategies",
    "portraitgen.runs.train.callbacks",
    "portraitgen.runs.train.train",
    *(f"portraitgen.systems.{system}.{part}" for system in SYSTEMS for part in ("module", "network")),
]
"""What a server imports once for all processes that it forks: that takes longer than a run."""

Method = Literal["forkserver", "spawn"]


def run(
    words: list[str], logs: Path, *, processes: int, as_ranks: int = 1, method: Method = "forkserver"
) -> None:
    """One run of `train.py` to its end, in processes whose output lies in `logs`.

    Args:
        method: "spawn" starts each process anew, as a launcher does: they share no seed of hashes, so that
            sets have another order in each.

    Raises:
        AssertionError: a process failed; with its output.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(SERVED)
    started: list[BaseProcess] = []
    try:
        for rank in range(processes):
            given = ([*words, f"trainer.devices={processes}"], rank, processes, port, as_ranks, logs)
            started.append(context.Process(target=_be_rank, args=given))
            started[-1].start()
        _wait(started)
        codes = [each.exitcode for each in started]
    finally:
        for each in started:
            each.kill()
    said = (f"{path.name}:\n{path.read_text()}" for path in sorted(logs.iterdir()))
    assert not any(codes), "\n".join([f"exit codes of the processes: {codes}", *said])


def _wait(started: list[BaseProcess]) -> None:
    """Return when all have ended, or 20 s after one has failed: others may wait for it without an end."""
    running = started
    while running:
        failed = any(each.exitcode for each in started)
        if not wait([each.sentinel for each in running], timeout=20 if failed else None):
            break
        running = [each for each in running if each.exitcode is None]


def _be_rank(words: list[str], rank: int, processes: int, port: int, as_ranks: int, logs: Path) -> None:
    with (logs / f"rank{rank}.txt").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if processes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
        os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    import torch

    torch.set_num_threads(1)
    _train(words, as_ranks)


def _train(words: list[str], as_ranks: int) -> None:
    from hydra import compose, initialize_config_dir

    from portraitgen.runs.config.schema import CONF, register_configs
    from portraitgen.runs.train import train

    if as_ranks > 1:
        _play_ranks(as_ranks)
    if any(word.startswith("strategy=deepspeed") for word in words):
        without_cuda()
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", words)
    Path(config.paths.runs, config.name).mkdir(parents=True, exist_ok=True)
    train.train(config)


def without_cuda() -> None:
    """DeepSpeed on gloo and a CPU, and without the compiler that it would start for its own kernels."""
    import deepspeed.ops
    import torch
    from lightning.fabric.utilities.seed import reset_seed
    from lightning.pytorch.strategies import DDPStrategy

    from portraitgen.runs.config import rules
    from portraitgen.training.zero import Zero

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    def setup_distributed(self: Any) -> None:
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    Zero.setup_environment = DDPStrategy.setup_environment  # type: ignore[method-assign]
    Zero.setup_distributed = setup_distributed  # type: ignore[method-assign]
    Zero.root_device = property(lambda self: torch.device("cpu", 0))  # type: ignore[assignment]
    rules.DEEPSPEED = ""  # it would say that there is no GPU


def _play_ranks(ranks: int) -> None:
    """Training draws what rank k mod `ranks` would draw for batch k; validation is the same for all."""
    from portraitgen.training.generator import Generator
    from portraitgen.training.step_seed import StepSeed, seed_torch, stream_seed

    def seed(self: StepSeed, trainer: Any, *_: Any) -> None:
        step, rank = divmod(trainer.fit_loop.total_batch_idx, ranks)
        seed_torch(stream_seed(self.seed, rank, step), trainer.strategy.root_device)

    losses = Generator.losses

    def losses_of_rank(self: Generator, batch: Any, *, step: int, training: bool) -> Any:
        if not training:
            return losses(self, batch, step=step, training=training)
        sample_time = self.objective.sample_time

        def time_of_rank(size: int, *, step: int, rank: int, world_size: int, **rest: Any) -> Any:
            step, rank = divmod(step, ranks)
            return sample_time(size, step=step, rank=rank, world_size=ranks, **rest)

        with patch.object(self.objective, "sample_time", time_of_rank):
            return losses(self, batch, step=step, training=training)

    StepSeed.on_train_batch_start = seed  # type: ignore[method-assign]
    Generator.losses = losses_of_rank  # type: ignore[method-assign]
