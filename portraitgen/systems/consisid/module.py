"""Training of ConsisID (arXiv:2411.17440): the global stage and the identity stage, one module for both."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from portraitgen.diffusion.conditions import ConditionDropout, ConditionMasks
from portraitgen.diffusion.image_condition import ReferenceNoise
from portraitgen.diffusion.latents import LatentCodec, Posterior
from portraitgen.diffusion.noise import Generators
from portraitgen.diffusion.objective import Objective
from portraitgen.faces.conditioner import FaceConditioner
from portraitgen.media.latent_masks import resize_mask
from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.nn.text.prompts import Prompts
from portraitgen.systems.consisid.face_pictures import reference_views, shown_pictures
from portraitgen.systems.consisid.host import Host
from portraitgen.systems.consisid.pipeline import ConsisIDPipeline, Face, OnStep
from portraitgen.training.generator import Batch, Denoised, Encoded, Generator
from portraitgen.training.optim import MakeOptimizer
from portraitgen.training.stored_latents import latents_of


class ConsisID(Generator):
    """Learns to draw a clip from its caption and a face of its person.

    Conditions, by the names that condition dropout uses: `text` (drop: the empty prompt takes its place),
    `picture` (zero: the latents of what is shown of the face), `face_embedding` and `face_hidden` (zero).

    What a batch brings precomputed is not computed: latents of the frames, embeddings of the caption,
    features of the face, and latents of some noised versions of its picture, of which a step draws one.

    Args:
        network: with face modules for the identity stage, without for the global one.
        codec, objective, optimizer, lr_scheduler, condition_dropout: see `Generator`. Of the objective's
            `mask_probability` the paper has 0.5; masks are those of `data.examples.masks`.
        sampling: `ConsisIDPipeline` with its settings bound.
        face_condition: looks at the faces of batches without features, and at photos; None where there are
            none of either.
        prompts: None: clips without captions, the text is one zero.
        reference_noise: on the picture of the face while training; None: none.
        gradient_checkpointing: trade time for memory; the gradients are equal.

    Raises:
        ValueError: codec or face features do not fit the network.
    """

    network: Host

    def __init__(
        self,
        network: Host,
        codec: LatentCodec,
        objective: Objective,
        *,
        sampling: Callable[..., ConsisIDPipeline],
        optimizer: MakeOptimizer,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        condition_dropout: ConditionDropout | None = None,
        face_condition: FaceConditioner | None = None,
        prompts: Prompts | None = None,
        reference_noise: ReferenceNoise | None = None,
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
        if codec.channels != network.latent_channels:
            raise ValueError(
                f"the codec's latents have {codec.channels} channels, where the transformer has "
                f"{network.latent_channels}: set network.transformer.out_channels to {codec.channels}"
            )
        if face_condition is not None and network.extractor is not None:
            _require_same_width(network, face_condition)
        network.set_gradient_checkpointing(gradient_checkpointing)
        self.face_condition = face_condition
        self.prompts = prompts
        self.reference_noise = reference_noise
        self.pipeline = self.make_pipeline(sampling, network, codec, prompts=prompts)

    @property
    def condition_recognizers(self) -> dict[str, str]:
        """That of the face condition, where there is one."""
        if self.face_condition is None:
            return {}
        return {self.face_condition.recognizer.digest: self.face_condition.recognizer.name}

    def encode(self, batch: Batch) -> Encoded:
        """As `Generator.encode`.

        Raises:
            ValueError: the batch lacks frames, captions or faces, and what was computed of them.
        """
        clean = latents_of(self.codec, batch, "frames", sample=True)
        face = self._faces(batch)
        conditions = {
            "face_embedding": face.embedding,
            "face_hidden": face.hidden,
            **self._text(batch, clean).conditions(),
        }
        if self.network.shows_picture:
            conditions["picture"] = self._picture_latents(batch, face, clean)
        mask = None
        if "masks" in batch:
            grid = (clean.shape[1], *clean.shape[-2:])
            mask = resize_mask(batch["masks"].transpose(1, 2).float(), grid).transpose(1, 2)
        return Encoded(clean, conditions, mask)

    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], masks: ConditionMasks
    ) -> Denoised:
        """As `Generator.denoise`."""
        text = TextEncoding.from_conditions(conditions)
        if self.prompts is not None:
            text = self.prompts.with_empty(text, masks.keep.get("text"))
        faces = None
        if self.network.extractor is not None:
            faces = self.network.face_tokens(conditions["face_embedding"], conditions["face_hidden"])
        picture = conditions.get("picture")
        return Denoised(self.network(noisy, time, text=text.embeds, picture=picture, faces=faces))

    def sample(self, batch: Batch, *, generator: Generators | None = None) -> Tensor:
        """Clips [B, T, 3, H, W] of the faces of a batch, as its caption says; see `stream`."""
        return torch.cat([*self.stream(batch, generator=generator)], dim=1)

    def stream(
        self,
        batch: Batch,
        *,
        generator: Generators | None = None,
        on_step: OnStep | None = None,
    ) -> Iterator[Tensor]:
        """As `Generator.stream`; frames are decoded as they are asked for.

        Beside what training reads: `negative_prompt` (list of B), `size` ([height, width]) and `length` in
        frames, where there are no frames, and `face_scale`.
        """
        face = self._faces(batch)
        size, num_frames = self._extent(batch)
        like = face.picture
        negative = batch.get("negative_prompt") or [self.pipeline.negative_prompt] * len(like)
        latents = self.pipeline(
            self._text(batch, like),
            self.pipeline.embed_text(negative, batch=len(like), like=like),
            face,
            size=size,
            num_frames=num_frames,
            face_scale=batch.get("face_scale"),
            generator=generator,
            on_step=on_step,
        )
        self.pipeline.place(self.codec, latents.device)
        for frames in self.codec.stream(latents):
            yield frames.clamp(-1, 1)

    def shown(self, batch: Batch) -> dict[str, Tensor]:
        """The face and, of prepared clips, the truth."""
        face = batch.get("face_picture", batch.get("reference"))
        shown: dict[str, Any] = {"face": face, "truth": batch.get("frames")}
        return {label: pictures for label, pictures in shown.items() if pictures is not None}

    @torch.no_grad()
    def _faces(self, batch: Batch) -> Face:
        """As they were computed before, or else looked at now."""
        if "face_embedding" not in batch:
            if self.face_condition is None:
                raise ValueError(
                    "the batches hold no features of faces: compute them with prepare.py features "
                    "'features=[face]' and set data.examples.features=[face], or set model.face_condition"
                )
            # As float32 networks saw photos when features were computed.
            with torch.autocast(self.device.type, enabled=False):
                batch = {**batch, **self.face_condition(reference_views(batch)).batch()}
        points = batch["face_key_points"] if self.network.shows_key_points else None
        return Face(batch["face_picture"], batch["face_embedding"], batch["face_hidden"], points)

    def _picture_latents(self, batch: Batch, face: Face, clean: Tensor) -> Tensor:
        """[B, n, C, h, w] of the face's picture, and of its key points where the network is shown them: while
        training of noised ones, stored or made now.
        """
        noise = self.reference_noise if self.training else None
        if noise is not None and "face_latent_distribution" in batch:
            versions = batch["face_latent_distribution"]  # [B, V, n, 2, C, h, w]
            stored, shown = versions.shape[2], 2 if self.network.shows_key_points else 1
            if stored < shown:
                raise ValueError(
                    "face_latent_distribution holds no key points, which the network is shown "
                    "(network.transformer.is_kps): compute the feature face with "
                    "features.face.latents.key_points=true"
                )
            if versions.shape[-3:] != clean.shape[-3:]:
                raise ValueError(
                    f"face_latent_distribution is of {[*versions.shape[-3:]]}, the clip's latents are of "
                    f"{[*clean.shape[-3:]]}: compute the feature face of these shards with their VAE"
                )
            rows = torch.arange(len(versions), device=versions.device)
            drawn = torch.randint(versions.shape[1], rows.shape, device=rows.device)
            return Posterior.unpacked(versions[rows, drawn, :shown]).draw()
        height, width = (side * self.codec.factor for side in clean.shape[-2:])
        pictures = shown_pictures(face.picture.to(clean.dtype), face.key_points, (height, width))
        if noise is not None:
            pictures = [noise(each) for each in pictures]
        return torch.cat([self.codec.encode_image(each, sample=True) for each in pictures], dim=1)

    def _extent(self, batch: Batch) -> tuple[tuple[int, int], int]:
        """(height, width) in pixels, and frames."""
        if "frames" in batch:
            return tuple(batch["frames"].shape[-2:]), batch["frames"].shape[1]
        for name in ("latents", "latent_distribution"):
            if name in batch:
                height, width = (side * self.codec.factor for side in batch[name].shape[-2:])
                return (height, width), self.codec.num_frames(batch[name].shape[1])
        return tuple(batch["size"]), batch["length"]

    def _text(self, batch: Batch, like: Tensor) -> TextEncoding:
        if self.prompts is None:
            return self.pipeline.embed_text(None, batch=len(like), like=like)
        return self.prompts.of_batch(batch, like=like)


def _require_same_width(network: Host, conditioner: FaceConditioner) -> None:
    looks = conditioner.looks
    given = (conditioner.embedding_dim, looks.width, len(looks.inner))
    for (setting, taken), width in zip(network.extractor_settings.items(), given, strict=True):
        if taken != width:
            raise ValueError(f"{setting} is {taken}, but model.face_condition gives {width}")
