"""Random numbers of a step as a function of seed, rank and step alone: a resumed run draws the same."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class StepSeed(Callback):
    """Seeds torch at the start of each batch.

    No random state has to be saved, and every rank draws noise of its own. The step is the count of batches
    since the run's start, gradient accumulation included. What a step draws must come from torch, and after
    the batch is on the device: a transform in `on_after_batch_transfer` runs earlier and must not be
    random.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        seed = stream_seed(self.seed, trainer.global_rank, trainer.fit_loop.total_batch_idx)
        seed_torch(seed, trainer.strategy.root_device)


def stream_seed(*parts: int | str) -> int:
    """A 32-bit seed for the stream of random numbers that `parts` name, e.g. seed, rank and step."""
    return zlib.crc32("/".join(map(str, parts)).encode())


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of `device`.

    `torch.manual_seed` seeds those of all kinds of devices. For each kind that is not in use it keeps the
    call and its stack trace for later: half a millisecond and some memory more at each step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextmanager
def isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a stream seeded with `seed`; afterwards torch's generators go on as if nothing was drawn."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        seed_torch(seed, device)
        yield
