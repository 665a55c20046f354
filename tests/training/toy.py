"""A small but whole training: real network, objective, callbacks and loader, for the tests of this folder."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DModel
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from portraitgen.diffusion.conditions import ConditionDropout, ConditionMasks
from portraitgen.diffusion.latents import PixelCodec
from portraitgen.diffusion.noise import draw_noise
from portraitgen.diffusion.objective import DiffusionObjective
from portraitgen.training.checkpoint import LastCheckpoint, find_resume
from portraitgen.training.ema import EMA
from portraitgen.training.export import WeightsExport
from portraitgen.training.generator import Denoised, Encoded, Generator
from portraitgen.training.health import Health
from portraitgen.training.loss_log import LossLog
from portraitgen.training.optim import warmup_cosine
from portraitgen.training.preemption import Preemption
from portraitgen.training.progress import TrainingProgress
from portraitgen.training.run_log import CsvLog
from portraitgen.training.samples import SampleLogger
from portraitgen.training.stage import TrainingStage
from portraitgen.training.step_seed import StepSeed
from portraitgen.training.throughput import Throughput

SIZE, CLIP_FRAMES, BATCHES_PER_EPOCH = 16, 2, 7
CONFIG = {"_target_": "toy", "channels": [8, 8]}


class ToyNetwork(nn.Module):
    """A U-Net with dropout gets the noisy frame and, through a batch norm with its buffers, the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.reference = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12))
        self.denoiser = UNet2DModel(
            sample_size=8,
            in_channels=24,
            out_channels=12,
            block_out_channels=(8, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=4,
            dropout=0.1,
        )

    def forward(self, noisy: Tensor, time: Tensor, reference: Tensor) -> Tensor:
        frames = noisy.shape[1]
        features = self.reference(reference)[:, None].expand(-1, frames, -1, -1, -1)
        stacked = torch.cat([noisy, features], dim=2).flatten(0, 1)
        return self.denoiser(stacked, time.repeat_interleave(frames)).sample.unflatten(0, (-1, frames))


class ToyGenerator(Generator):
    """Predicts the clean sample; `sample` is one step from pure noise."""

    def encode(self, batch: dict[str, Any]) -> Encoded:
        reference = self.codec.encode(batch["reference"])
        return Encoded(self.codec.encode(batch["frames"]), {"reference": reference})

    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], masks: ConditionMasks
    ) -> Denoised:
        return Denoised(self.network(noisy, time, conditions["reference"]))

    def shown(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        pictures = {"reference": "reference", "landmarks": "pose", "truth": "frames"}
        return {label: batch[key] for label, key in pictures.items()}

    def sample(self, batch: dict[str, Any], *, generator: Any = None) -> Tensor:
        reference = self.codec.encode(batch["reference"])
        shape = (len(reference), CLIP_FRAMES, *reference.shape[1:])
        noise = draw_noise(shape, device=reference.device, generator=generator)
        torch.rand(1)  # a careless draw from the global generator
        time = torch.full((len(noise),), 999, device=noise.device)
        return self.codec.decode(self.network(noise, time, reference))


class ToyClips(Dataset):
    """Clip i is a function of i."""

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> dict[str, Any]:
        source = torch.Generator().manual_seed(index)
        frames = torch.rand(CLIP_FRAMES, 3, SIZE, SIZE, generator=source) * 2 - 1
        return {"key": f"clip-{index:09d}", "frames": frames, "reference": frames[0], "pose": frames.flip(0)}


class ToyLoader:
    """Endless deterministic stream; resumes exactly, as the real loader does."""

    def __init__(self, *, batch_size: int, num_workers: int, rank: int, world_size: int) -> None:
        self._share = range(rank * batch_size, (rank + 1) * batch_size)
        self._global_batch = batch_size * world_size
        self._num_workers = num_workers
        self._handed_out = 0

    def __len__(self) -> int:
        return BATCHES_PER_EPOCH

    def __iter__(self) -> Iterator[dict[str, Any]]:
        first = self._handed_out
        last = (first // BATCHES_PER_EPOCH + 1) * BATCHES_PER_EPOCH
        positions = [[b * self._global_batch + i for i in self._share] for b in range(first, last)]
        start_method = "fork" if self._num_workers else None
        loader = DataLoader(
            ToyClips(),
            batch_sampler=positions,
            num_workers=self._num_workers,
            multiprocessing_context=start_method,
        )
        for batch in loader:
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._handed_out = state["batches"]


class ToyData(LightningDataModule):
    def __init__(self, *, num_workers: int = 0, batch_size: int = 2) -> None:
        super().__init__()
        self.num_workers = num_workers
        self.batch_size = batch_size

    def train_dataloader(self) -> ToyLoader:
        return ToyLoader(
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(ToyClips(), batch_sampler=[[900, 901], [902, 903]])


def make_generator(**changes: Any) -> ToyGenerator:
    seed_everything(0, verbose=False)
    settings: dict[str, Any] = {
        "optimizer": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1),
        "lr_scheduler": partial(warmup_cosine, warmup_steps=3, total_steps=40),
        "condition_dropout": ConditionDropout({"reference": {"probability": 0.3, "zero": ["reference"]}}),
    }
    objective = DiffusionObjective(DDIMScheduler(prediction_type="sample"), noise_offset=0.05)
    return ToyGenerator(ToyNetwork(), PixelCodec(2), objective, **(settings | changes))


def make_callbacks(
    run: Path, *, every_steps: int = 3, save_every: int = 3, samples: bool = False, **stage: Any
) -> list[Callback]:
    """All callbacks that a real run has."""
    return [
        TrainingStage(**({"name": "toy"} | stage)),
        StepSeed(0),
        EMA(0.99),
        LossLog(every_steps),
        Health(every_steps),
        Throughput(every_steps),
        TrainingProgress(every_steps),
        *([SampleLogger(run / "samples", every_steps=every_steps, num_clips=2)] if samples else []),
        WeightsExport(run / "weights", config=CONFIG, system="toy", every_steps=save_every),
        Preemption(agree_every_steps=2),
        LastCheckpoint(run / "checkpoints", every_steps=save_every),
    ]


def train(
    run: Path,
    *,
    generator: Generator | None = None,
    data: ToyData | None = None,
    callbacks: list[Callback] | None = None,
    trainer: dict[str, Any] | None = None,
    world_size: int = 1,
    accumulate: int = 1,
    **for_callbacks: Any,
) -> Generator:
    """Start the run in `run`, or go on with it, as train.py does; with `callbacks` after the usual ones."""
    generator = generator or make_generator()
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": world_size,
        "strategy": "ddp" if world_size > 1 else "auto",
        "max_steps": 6,
        "accumulate_grad_batches": accumulate,
        "val_check_interval": 5 * accumulate,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "gradient_clip_val": 1.0,
        "callbacks": [*make_callbacks(run, **for_callbacks), *(callbacks or [])],
        "logger": CsvLog(run),
        "enable_model_summary": False,
        "default_root_dir": run,
    }
    resume = find_resume(run / "checkpoints")
    path = resume.path if resume else None
    Trainer(**(settings | (trainer or {}))).fit(generator, datamodule=data or ToyData(), ckpt_path=path)
    return generator


class Unhurried(Callback):
    """Leaves time to be killed before the run is over."""

    def on_train_batch_end(self, *args: Any) -> None:
        time.sleep(0.05)


def start(
    run: Path,
    *,
    world_size: int,
    num_workers: int = 0,
    batch_size: int = 2,
    make: Callable[[], Generator] = make_generator,
    **options: Any,
) -> list[BaseProcess]:
    """Processes of a run, from a server that has imported everything: that takes longer than the run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["diffusers.models.unets.unet_2d", "lightning.pytorch", "portraitgen.training.samples"]
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run.mkdir(exist_ok=True)
    processes: list[BaseProcess] = [
        context.Process(
            target=_train_rank,
            args=(run, rank, world_size, port, make),
            kwargs={"num_workers": num_workers, "batch_size": batch_size, "options": options},
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[BaseProcess]) -> list[int | None]:
    """Exit codes."""
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def _train_rank(
    run: Path,
    rank: int,
    world_size: int,
    port: int,
    make: Callable[[], Generator],
    *,
    num_workers: int,
    batch_size: int,
    options: dict[str, Any],
) -> None:
    """Entry of a process that may be killed: one rank of `train`."""
    torch.set_num_threads(1)
    if world_size > 1:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "LOCAL_RANK": str(rank),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(world_size),
        }
    with (run / f"rank{rank}.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        data = ToyData(num_workers=num_workers, batch_size=batch_size)
        train(run, generator=make(), data=data, world_size=world_size, **options)
