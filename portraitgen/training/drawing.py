"""What callbacks draw in while a run trains: samples to look at, clips to grade."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import Trainer

from portraitgen.training.ema import averaged_weights
from portraitgen.training.generator import Generator
from portraitgen.training.step_seed import isolated_rng


@contextmanager
def drawing(trainer: Trainer, module: Generator, *, seed: int) -> Iterator[None]:
    """Averaged weights, eval mode, no gradients, the run's precision; training does not notice it.

    Args:
        seed: of torch's random numbers inside the block.
    """
    with (
        isolated_rng(seed, module.device),
        torch.no_grad(),
        averaged_weights(trainer),
        trainer.precision_plugin.forward_context(),
    ):
        module.eval()
        try:
            yield
        finally:
            module.train()
    if module.device.type == "cuda":
        # Sampling asks for blocks of other sizes than training, which would stay reserved for it.
        torch.cuda.empty_cache()
