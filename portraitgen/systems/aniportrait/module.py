"""Training of AniPortrait (arXiv 2403.17694): stage 1 on frames, stage 2 on clips, one module for both."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from portraitgen.diffusion.conditions import ConditionDropout
from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators
from portraitgen.diffusion.objective import Objective
from portraitgen.nn.clip_image import ClipImageEncoder
from portraitgen.systems.aniportrait.network import AniPortraitNetwork, check_drawings
from portraitgen.systems.aniportrait.pipeline import AniPortraitPipeline
from portraitgen.training.generator import Batch, Encoded, Generator
from portraitgen.training.optim import MakeOptimizer


class AniPortrait(Generator):
    """Learns to draw the frames of a clip from their landmark drawings and a reference frame of it.

    Conditions, by the names that condition dropout uses: `reference` (drop: the denoising U-Net attends to
    itself only), `image` (the context token; drop: what stands for no image in sampling takes its place) and
    `pose` (zero).

    Args:
        network: with `motion` for clips, without for frames.
        codec, objective, optimizer, lr_scheduler, condition_dropout: see `Generator`.
        sampling: `AniPortraitPipeline` with its settings bound; for the samples while training.
        image_encoder: frozen, images [B, 3, H, W] → context token [B, 1, D]; None: the token is zero.
        gradient_checkpointing: trade time for memory; the gradients are equal.
    """

    network: AniPortraitNetwork

    def __init__(
        self,
        network: AniPortraitNetwork,
        codec: LatentCodec,
        objective: Objective,
        *,
        sampling: Callable[..., AniPortraitPipeline],
        optimizer: MakeOptimizer,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        condition_dropout: ConditionDropout | None = None,
        image_encoder: ClipImageEncoder | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(
            network,
            codec,
            objective,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            condition_dropout=condition_dropout,
        )
        network.set_gradient_checkpointing(gradient_checkpointing)
        self.image_encoder = image_encoder
        self.pipeline = sampling(network, codec, image_encoder=image_encoder)

    def cast(self, dtype: torch.dtype) -> None:
        """As `Generator.cast`, but for the pose guider: it is small, and the variance of upstream's drawings,
        in [-1, 509], is out of the range of float16.
        """
        self.network.denoising_unet.to(dtype)
        self.network.reference_unet.to(dtype)
        self.codec.to(dtype)
        if self.image_encoder is not None:
            self.image_encoder.to(dtype)

    def encode(self, batch: Batch) -> Encoded:
        """As `Generator.encode`; `latents` [B, T, C, h, w] and `reference_latents` [B, C, h, w] of a batch
        take the place of its pictures. They are what the codec's `encode` gives, the mode: where the pictures
        would be sampled from their posterior, precomputed ones are not.

        Raises:
            ValueError: drawings are missing or do not fit, or there is no reference picture.
        """
        if "reference" not in batch:
            raise ValueError(
                "no reference pictures in the batch: image encoder and samples look at them beside the "
                "precomputed latents, so set data.examples.pictures=[reference]"
            )
        if "reference_latents" in batch:
            reference = batch["reference_latents"]
        else:
            reference = self.codec.encode(batch["reference"])
        check_drawings(batch.get("pose"), reference)
        if "latents" in batch:
            clean = batch["latents"]
        else:
            clean = self.codec.encode(batch["frames"], sample=True)
        return Encoded(
            clean=clean,
            conditions={
                "reference": reference,
                "image": self.pipeline.embed_image(batch["reference"]),
                "pose": batch["pose"],
            },
        )

    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], keep: Mapping[str, Tensor]
    ) -> Tensor:
        image = conditions["image"]
        if "image" in keep:
            no_image = self.pipeline.embed_no_image(image)
            image = torch.where(keep["image"][:, None, None], image, no_image)
        return self.network(
            noisy,
            time,
            reference=self.network.encode_reference(conditions["reference"], image),
            pose=self.network.encode_pose(conditions["pose"]),
            image_embeds=image,
            keep=keep.get("reference"),
        )

    def sample(self, batch: Batch, *, generator: Generators | None = None) -> Tensor:
        return self.pipeline(batch["reference"], batch["pose"], generator=generator)

    def stream(
        self,
        batch: Batch,
        *,
        generator: Generators | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[Tensor]:
        """As `Generator.stream`; `pose` may be `FramesOnDemand`."""
        return self.pipeline.stream(batch["reference"], batch["pose"], generator=generator, on_step=on_step)
