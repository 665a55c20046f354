"""AniPortrait at its smallest, a batch for it, and a Trainer that takes some steps."""

from functools import partial
from typing import Any

import torch
from diffusers import DDIMScheduler
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from portraitgen.diffusion.latents import LatentCodec, PixelCodec
from portraitgen.diffusion.objective import DiffusionObjective
from portraitgen.systems.aniportrait.module import AniPortrait
from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.systems.aniportrait.pipeline import AniPortraitPipeline
from tests.systems.aniportrait.tiny_network import GUIDER, MOTION, UNET

Batch = dict[str, Any]


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )


def make_module(
    kind: type[AniPortrait] = AniPortrait,
    *,
    network: AniPortraitNetwork | None = None,
    objective: DiffusionObjective | None = None,
    lr: float = 1e-3,
    unconditional_image: str = "zero",
    codec: LatentCodec | None = None,
    **settings: Any,
) -> AniPortrait:
    torch.manual_seed(0)
    if network is None:
        network = AniPortraitNetwork(
            denoising_unet=UNET, reference_unet=UNET, pose_guider=GUIDER, motion=MOTION
        )
    return kind(
        network,
        codec or PixelCodec(4),
        objective or DiffusionObjective(scheduler(), min_snr_gamma=5.0),
        sampling=partial(AniPortraitPipeline, scheduler=scheduler(), unconditional_image=unconditional_image),
        optimizer=partial(torch.optim.AdamW, lr=lr),
        **settings,
    )


def make_batch(samples: int, frames: int = 2) -> Batch:
    source = torch.Generator().manual_seed(3)

    def pictures(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=source) * 2 - 1

    return {
        "key": [f"clip-{index}" for index in range(samples)],
        "frames": pictures(samples, frames, 3, 16, 16),
        "reference": pictures(samples, 3, 16, 16),
        "pose": pictures(samples, frames, 3, 32, 32),
    }


def fit(
    module: LightningModule, batches: list[Batch], *callbacks: Callback, accumulate: int = 1, steps: int = 1
) -> None:
    Trainer(
        accelerator="cpu",
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        callbacks=[*callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, train_dataloaders=DataLoader(batches, batch_size=None))
