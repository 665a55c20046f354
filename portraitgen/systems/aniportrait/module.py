"""Training of AniPortrait (arXiv 2403.17694): stage 1 on frames, stage 2 on clips, one module for both."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from portraitgen.diffusion.conditions import ConditionDropout, ConditionMasks
from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators
from portraitgen.diffusion.objective import Objective
from portraitgen.nn.clip_image import ClipImageEncoder
from portraitgen.systems.aniportrait.network import AniPortraitNetwork, check_drawings
from portraitgen.systems.aniportrait.pipeline import AniPortraitPipeline
from portraitgen.training.generator import Batch, Denoised, Encoded, Generator
from portraitgen.training.optim import MakeOptimizer
from portraitgen.training.stored_latents import latents_of


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
        self.pipeline = self.make_pipeline(sampling, network, codec, image_encoder=image_encoder)

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
        """As `Generator.encode`. What is stored takes the place of pictures: latents, or their distribution,
        which is drawn from as pictures are (see `latents_of`); and the image embeddings of the reference.

        Raises:
            ValueError: drawings are missing or do not fit, or there is neither a picture nor what is stored.
        """
        reference = latents_of(self.codec, batch, "reference", sample=False)
        check_drawings(batch.get("pose"), reference)
        return Encoded(
            clean=latents_of(self.codec, batch, "frames", sample=True),
            conditions={
                "reference": reference,
                "image": self._embed_reference(batch, reference),
                "pose": batch["pose"],
            },
        )

    def _embed_reference(self, batch: Batch, latents: Tensor) -> Tensor:
        """Context token [B, 1, D] of the reference: the stored one, or that of the picture."""
        if self.image_encoder is None:
            if "reference_image_embeds" in batch:
                raise ValueError(
                    "the batches hold image embeddings and this model has no image encoder, so it would not"
                    " look at them: leave the feature clip out, or set model.image_encoder"
                )
            return self.pipeline.embed_image(latents)
        if "reference_image_embeds" in batch:
            embeds: Tensor = batch["reference_image_embeds"].unsqueeze(1)
            if embeds.shape[-1] != self.network.context_dim:
                raise ValueError(
                    f"stored image embeddings have {embeds.shape[-1]} numbers, the network takes"
                    f" {self.network.context_dim} (cross_attention_dim): compute the feature clip with the"
                    " model's image encoder"
                )
            return embeds
        if "reference" not in batch:
            raise ValueError(
                "the image encoder looks at the reference, and the batches hold neither its picture nor its"
                " image embeddings: add the feature clip (data.examples.features=[vae,clip]), or decode the"
                " picture (data.examples.pictures=[reference])"
            )
        return self.pipeline.embed_image(batch["reference"])

    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], masks: ConditionMasks
    ) -> Denoised:
        image = conditions["image"]
        if "image" in masks.keep:
            no_image = self.pipeline.embed_no_image(image)
            image = torch.where(masks.keep["image"][:, None, None], image, no_image)
        prediction = self.network(
            noisy,
            time,
            reference=self.network.encode_reference(conditions["reference"], image),
            pose=self.network.encode_pose(conditions["pose"]),
            image_embeds=image,
            keep=masks.keep.get("reference"),
        )
        return Denoised(prediction)

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

    def shown(self, batch: Batch) -> dict[str, Tensor]:
        """Reference and landmark drawings, and of a batch of clips their frames."""
        pictures = {"reference": "reference", "landmarks": "pose", "truth": "frames"}
        return {label: batch[key] for label, key in pictures.items() if key in batch}
