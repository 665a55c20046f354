"""train.py under a strategy on this machine's CPU, in processes of their own, for tests that compare runs.

    python -m tests.strategy_run [--as-ranks N] experiment=… strategy=fsdp trainer.devices=2 …

`--as-ranks N` lets one process play N ranks: batch k is drawn with the random numbers and the share of the
time axis of rank k mod N in step k div N, so that with N batches accumulated a step is that of N processes.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.command_line import ROOT


def start(words: list[str], *, processes: int, as_ranks: int = 1) -> list[subprocess.Popen[str]]:
    """The processes of one run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        if processes > 1:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
            environment |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        call = [sys.executable, "-m", "tests.strategy_run"]
        call += ["--as-ranks", str(as_ranks), *words, f"trainer.devices={processes}"]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(call, cwd=ROOT, env=environment, stderr=pipe, text=True))
    return started


def run(words: list[str], *, processes: int, as_ranks: int = 1) -> str:
    """What the first process of a run says; it must end well."""
    started = start(words, processes=processes, as_ranks=as_ranks)
    said = [process.communicate()[1] for process in started]
    for process, errors in zip(started, said, strict=True):
        assert process.returncode == 0, errors
    return said[0]


def main(words: list[str]) -> None:
    from hydra import compose, initialize_config_dir

    from portraitgen.runs.config.schema import CONF, register_configs
    from portraitgen.runs.train import train

    ranks = int(words[1])
    if ranks > 1:
        _play_ranks(ranks)
    if any(word.startswith("strategy=deepspeed") for word in words):
        _without_cuda()
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", words[2:])
    Path(config.paths.runs, config.name).mkdir(parents=True, exist_ok=True)
    train.train(config)


def _without_cuda() -> None:
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
    from portraitgen.diffusion.objective import DiffusionObjective, FlowMatching
    from portraitgen.training.step_seed import StepSeed, seed_torch, stream_seed

    def seed(self: StepSeed, trainer: Any, *_: Any) -> None:
        step, rank = divmod(trainer.fit_loop.total_batch_idx, ranks)
        seed_torch(stream_seed(self.seed, rank, step), trainer.strategy.root_device)

    StepSeed.on_train_batch_start = seed  # type: ignore[method-assign]
    for kind in (DiffusionObjective, FlowMatching):
        _share_time(kind, ranks)


def _share_time(kind: Any, ranks: int) -> None:
    sample_time = kind.sample_time

    def of_rank(self: Any, batch_size: int, *, step: int, rank: int, world_size: int, **rest: Any) -> Any:
        step, rank = divmod(step, ranks)
        return sample_time(self, batch_size, step=step, rank=rank, world_size=ranks, **rest)

    kind.sample_time = of_rank


if __name__ == "__main__":
    main(sys.argv[1:])
