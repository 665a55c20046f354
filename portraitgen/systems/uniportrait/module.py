"""Training of UniPortrait (arXiv:2408.05939): stage 1 on one person, stage 2 on several, one module for both.

The authors released no training code. What their paper leaves open are settings here; the README of the
system lists them.
"""

from collections import UserDict
from collections.abc import Callable
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from portraitgen.diffusion.conditions import ConditionDropout, ConditionMasks
from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators
from portraitgen.diffusion.objective import Objective
from portraitgen.nn.decoupled_attention import Branches, grid_of
from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.nn.text.prompts import Prompts
from portraitgen.systems.uniportrait.features import FaceFeatures
from portraitgen.systems.uniportrait.network import UniPortraitNetwork
from portraitgen.systems.uniportrait.photos import FaceCount
from portraitgen.systems.uniportrait.pipeline import UniPortraitPipeline
from portraitgen.systems.uniportrait.structure_dropout import StructureDropout
from portraitgen.training.generator import Batch, Denoised, Encoded, Generator
from portraitgen.training.optim import MakeOptimizer


class UniPortrait(Generator):
    """Learns to draw the people of a photo from its caption and their faces.

    Conditions, by the names that condition dropout uses: `people` (drop: all faces of a sample become what
    stands for nobody in sampling) and `text` (drop: the empty prompt).

    Args:
        network: with a router for several people.
        codec, objective, optimizer, lr_scheduler, condition_dropout: see `Generator`.
        sampling: `UniPortraitPipeline` with its settings bound.
        features: frozen.
        prompts: None: photos without captions, the text is one zero.
        structure_dropout: for each face on its own; None: nothing is dropped.
        gradient_checkpointing: trade time for memory; the gradients are equal.
    """

    network: UniPortraitNetwork
    by_products: ClassVar[frozenset[str]] = frozenset({"router_logits"})

    def __init__(
        self,
        network: UniPortraitNetwork,
        codec: LatentCodec,
        objective: Objective,
        *,
        features: FaceFeatures,
        sampling: Callable[..., UniPortraitPipeline],
        optimizer: MakeOptimizer,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        condition_dropout: ConditionDropout | None = None,
        prompts: Prompts | None = None,
        structure_dropout: StructureDropout | None = None,
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
        resampler = network.id_resampler
        for name, width in (("intrinsic", features.intrinsic_dim), ("structure", features.structure_dim)):
            if getattr(resampler, f"{name}_dim") != width:
                raise ValueError(
                    f"model.network.resampler.{name}_dim is {getattr(resampler, f'{name}_dim')}, but "
                    f"{features.face.name} and CLIP give {width}: set it to {width}"
                )
        network.set_gradient_checkpointing(gradient_checkpointing)
        self.features = features
        self.prompts = prompts
        self.structure_dropout = structure_dropout
        self.pipeline = self.make_pipeline(sampling, network, codec, features=features, prompts=prompts)

    @property
    def condition_recognizers(self) -> dict[str, str]:
        """That of the face features."""
        return {self.features.face.digest: self.features.face.name}

    def cast(self, dtype: torch.dtype) -> None:
        """As `Generator.cast`, and the image encoder; the recognition network stays in float32."""
        super().cast(dtype)
        if self.features.clip is not None:
            self.features.clip.to(dtype)

    def encode(self, batch: Batch) -> Encoded:
        """As `Generator.encode`, of photos with their people (`PhotoExamples`, with `faces`).

        While training, who somebody is may be read of another photo of them (`other`), never how they look;
        and structural features are dropped.

        Raises:
            ValueError: the batch has no crops of faces.
        """
        if "faces" not in batch:
            raise ValueError("no crops of faces in the batch: set data.examples.faces=224")
        faces, people = batch["faces"], batch["people"]
        size = people.shape
        intrinsic, structure = self.features(faces.flatten(0, 1))
        if "other" in batch and self.training:
            others, _ = self.features(batch["other"].flatten(0, 1))
            found = batch["other_found"].flatten()[:, None, None]
            intrinsic = torch.where(found, others, intrinsic)
        branch, seen = people.new_ones(len(structure)), people.new_ones(structure.shape[:2])
        if self.structure_dropout is not None and self.training:
            branch, seen = self.structure_dropout.draw(*structure.shape[:2], device=structure.device)
        image = batch["image"]
        conditions = {
            "people": people,
            "intrinsic": intrinsic.unflatten(0, size),
            "structure": structure.unflatten(0, size),
            "structure_branch": branch.unflatten(0, size),
            "structure_seen": seen.unflatten(0, size),
            **self._text(batch, image).conditions(),
        }
        if "latents" in batch:
            return Encoded(batch["latents"], conditions)
        return Encoded(self.codec.encode(image, sample=True), conditions)

    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], masks: ConditionMasks
    ) -> Denoised:
        """As `Generator.denoise`; `router_logits`: layer → [B, P, h, w]."""
        people, text = conditions["people"], TextEncoding.from_conditions(conditions)
        if self.prompts is not None:
            text = self.prompts.with_empty(text, masks.keep.get("text"))
        intrinsic, structure = conditions["intrinsic"], conditions["structure"]
        if "people" in masks.keep:
            kept = masks.keep["people"][:, None, None, None]
            no_one, no_looks = self.features.nobody(intrinsic.flatten(0, 1))
            intrinsic = torch.where(kept, intrinsic, no_one)
            structure = torch.where(kept, structure, no_looks)
        tokens = self.network.id_resampler(
            intrinsic.flatten(0, 1),
            structure.flatten(0, 1),
            structure_scale=conditions["structure_branch"].flatten()[:, None, None].to(structure.dtype),
            structure_keep=conditions["structure_seen"].flatten(0, 1),
        )
        wanted = self.network.has_router and "router_logits" in self.wanted
        logits_of: UserDict[str, Tensor] | None = UserDict() if wanted else None
        branches = Branches(tokens.unflatten(0, people.shape), present=people, logits=logits_of)
        prediction = self.network(noisy, time, text=text.embeds, branches=branches)
        logits = {
            layer: each.mT.unflatten(-1, grid_of(each.shape[1], *noisy.shape[-2:]))
            for layer, each in (branches.logits or {}).items()
        }
        return Denoised(prediction, {"router_logits": logits} if "router_logits" in self.wanted else {})

    def sample(self, batch: Batch, *, generator: Generators | None = None) -> Tensor:
        """Pictures [B, 3, H, W] of the people of a batch, as its caption says.

        Beside what training reads: `negative_prompt` (list of B), `size` ([height, width], where there is no
        `image`), `faces` of several photos [B, N, J, 3, S, S] with their `photo_sets` (see `embed_people`),
        `regions` [B, N, H, W], `image_prompt` [B, 1, E], the scales of the pipeline, and `face_count`, which
        has a picture drawn anew until it shows as many faces as there are people.
        """
        pipeline = self.pipeline
        faces, people = batch["faces"], batch["people"]
        # Those who are there stand first: places that are empty in all samples need no attention.
        count = max(1, int(people.sum(dim=1).max()))
        faces = faces[:, :count] if faces.ndim == 6 else faces[:, :count, None]
        like = cast(Tensor, batch.get("image", faces))
        size = tuple(batch["image"].shape[-2:]) if "image" in batch else tuple(batch["size"])
        text = self._text(batch, like)
        negative = batch.get("negative_prompt") or [pipeline.negative_prompt] * len(people)
        embedded = pipeline.embed_people(
            faces,
            sets=batch.get("photo_sets"),
            structure_scale=batch.get("structure_scale"),
        )
        draw = partial(
            pipeline,
            text,
            pipeline.embed_text(negative, batch=len(people), like=like),
            embedded,
            size=(size[0], size[1]),
            present=people[:, :count],
            regions=batch.get("regions"),
            image=batch.get("image_prompt"),
            people_scale=batch.get("people_scale"),
            image_scale=batch.get("image_scale"),
            generator=generator,
        )
        pictures = draw()
        if "face_count" in batch:
            count_faces: FaceCount = batch["face_count"]
            assert len(pictures) == 1, "one picture a request"
            for _ in range(count_faces.tries):
                if count_faces.is_right(pictures[0]):
                    break
                pictures = draw()  # the generator goes on: other noise
        return pictures

    def shown(self, batch: Batch) -> dict[str, Tensor]:
        """Each person's face, and of prepared photos the photo."""
        faces = batch["faces"][:, :, 0] if batch["faces"].ndim == 6 else batch["faces"]
        shown = {f"person {number}": face for number, face in enumerate(faces.unbind(1), start=1)}
        if "image" in batch:
            shown["truth"] = batch["image"]
        return shown

    def _text(self, batch: Batch, like: Tensor) -> TextEncoding:
        if self.prompts is None:
            return self.pipeline.embed_text(None, batch=len(batch["people"]), like=like)
        return self.prompts.of_batch(batch, like=like)
