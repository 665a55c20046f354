"""How fast the run trains, and how much of the time it waits for data."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from portraitgen.training.run_log import log_metrics
from portraitgen.training.trainer_state import find_callback, is_due, positive


class Throughput(Callback):
    """Logs `perf/…` every `every_steps` optimizer steps, over the steps since the last time.

    `samples_per_s` and, of batches with `frames`, `frames_per_s` are of all ranks together. Of this rank are
    `data_wait` (the share of time between the end of a batch and the start of the next), `max_memory_gb`
    (what the GPU has allocated, on a CPU what the process uses) and, on a GPU, `alloc_retries` (above 0:
    memory is nearly full). Time spent on validation, samples and saving is left out. Never waits for the
    GPU: over many steps the host's clock is the device's.

    Args:
        every_steps: as `LossLog`'s, so that both go into one row.
    """

    def __init__(self, every_steps: int) -> None:
        self.every_steps = positive("callbacks.throughput.every_steps", every_steps)
        self._apart = 0.0
        self._begin: float | None = None
        self._batch_end = 0.0
        self._waited = 0.0
        self._samples = 0
        self._frames = 0
        self._validation_start = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if self._begin is not None:
            self._waited += self._now() - self._batch_end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Any, batch_idx: int
    ) -> None:
        now = self._now()
        if self._begin is None:
            # The first batch warms up caches, workers and kernels: the clock starts after it.
            self._start(now)
            return
        self._batch_end = now
        self._samples += len(batch["key"])
        if "frames" in batch:
            self._frames += batch["frames"].shape[:2].numel()
        if is_due(trainer, self.every_steps):
            log_metrics(trainer, self._metrics(trainer, now - self._begin))
            self._start(now)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.exclude(time.perf_counter() - self._validation_start)

    def exclude(self, seconds: float) -> None:
        """Do not count the last `seconds` as training."""
        self._apart += seconds

    def _now(self) -> float:
        """A clock that stands still while something else than training happens."""
        return time.perf_counter() - self._apart

    def _start(self, now: float) -> None:
        self._begin = self._batch_end = now
        self._waited, self._samples, self._frames = 0.0, 0, 0

    def _metrics(self, trainer: Trainer, elapsed: float) -> dict[str, float]:
        metrics = {
            "perf/samples_per_s": self._samples * trainer.world_size / elapsed,
            "perf/data_wait": self._waited / elapsed,
        }
        if self._frames:
            metrics["perf/frames_per_s"] = self._frames * trainer.world_size / elapsed
        device = trainer.strategy.root_device
        if device.type == "cuda":
            metrics["perf/max_memory_gb"] = torch.cuda.max_memory_allocated(device) / 2**30
            metrics["perf/alloc_retries"] = torch.cuda.memory_stats(device)["num_alloc_retries"]
        else:
            metrics["perf/max_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return metrics


@contextmanager
def apart_from_training(trainer: Trainer) -> Iterator[None]:
    """What happens in the block does not count as training time."""
    start = time.perf_counter()
    yield
    throughput = find_callback(trainer, Throughput)
    if throughput is not None:
        throughput.exclude(time.perf_counter() - start)
